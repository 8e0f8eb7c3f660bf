//! The pickle machine, as far as `torch.save` needs it (protocols 0 to 5): it makes values and runs nothing.
//!
//! Source: CPython's `pickletools.py`. Values stand in one table and refer to each other by number, so that nothing is
//! ever copied, whatever a program does with its memo, and nothing is dropped or walked recursively. Each operation makes
//! one value at most and takes a byte of the program at least.

mod calls;

use std::collections::HashMap;

use super::values::{Id, Unpickled, Value};
use crate::cursor::Cursor;

/// Values, places on the stack, marks, and places in the memo. A state dict of a thousand tensors has thirty thousand values.
const MAX_VALUES: usize = 1 << 20;

/// Reads one program from the beginning of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Unpickled<'_>, String> {
    let mut machine = Machine {
        from: Cursor::new(bytes),
        values: vec![Value::Other, Value::Tuple(Box::default()), Value::False],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Unpickled::new(machine.values, root, machine.from.at()))
}

/// Numbers of the values that every program begins with.
const OTHER: Id = 0;
const EMPTY: Id = 1;
const FALSE: Id = 2;

struct Machine<'a> {
    from: Cursor<'a>,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One operation; whether another follows.
    fn step(&mut self) -> Result<bool, String> {
        let operation = self.from.u8()?;
        match operation {
            b'.' => return Ok(false),
            0x80 => {
                let protocol = self.from.u8()?;
                if protocol > 5 {
                    return Err(format!("it has protocol {protocol}; 0 to 5 are read"));
                }
            }
            // Frames are for reading ahead.
            0x95 => drop(self.from.u64()?),
            b'(' => {
                if self.marks.len() >= MAX_VALUES {
                    return Err(too_many());
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
            }
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            b'N' | 0x88 | 0x8f => self.push(OTHER)?,
            0x89 => self.push(FALSE)?,
            b'I' | b'L' => self.number_line()?,
            b'J' => {
                let n = self.from.u32()? as i32;
                self.make(Value::Int(n.into()))?;
            }
            b'K' => {
                let n = self.from.u8()?;
                self.make(Value::Int(n.into()))?;
            }
            b'M' => {
                let n = self.from.u16()?;
                self.make(Value::Int(n.into()))?;
            }
            0x8a => {
                let length = self.from.u8()? as usize;
                self.long(length)?;
            }
            0x8b => {
                let length = self.from.u32()? as usize;
                self.long(length)?;
            }
            b'F' => {
                self.from.line()?;
                self.push(OTHER)?;
            }
            b'G' => {
                self.from.u64()?;
                self.push(OTHER)?;
            }
            b'S' => {
                let line = self.from.line()?;
                let quoted = line.strip_prefix(b"'").and_then(|l| l.strip_suffix(b"'"));
                let text = quoted.or_else(|| line.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")));
                self.text(text.unwrap_or(line))?;
            }
            b'V' => {
                let line = self.from.line()?;
                self.text(line)?;
            }
            b'U' | 0x8c => {
                let length = self.from.u8()? as usize;
                let text = self.from.take(length)?;
                self.text(text)?;
            }
            b'T' | b'X' => {
                let length = self.from.u32()? as usize;
                let text = self.from.take(length)?;
                self.text(text)?;
            }
            0x8d => {
                let length = self.from.length()?;
                let text = self.from.take(length)?;
                self.text(text)?;
            }
            b'C' => {
                let length = self.from.u8()? as usize;
                self.from.take(length)?;
                self.push(OTHER)?;
            }
            b'B' => {
                let length = self.from.u32()? as usize;
                self.from.take(length)?;
                self.push(OTHER)?;
            }
            0x8e | 0x96 => {
                let length = self.from.length()?;
                self.from.take(length)?;
                self.push(OTHER)?;
            }
            b')' => self.push(EMPTY)?,
            b't' => {
                let items = self.above_mark()?;
                self.make(Value::Tuple(items.into()))?;
            }
            0x85..=0x87 => {
                let items = self.above(usize::from(operation - 0x84))?;
                self.make(Value::Tuple(items.into()))?;
            }
            b']' => self.make(Value::List(Vec::new()))?,
            b'l' => {
                let items = self.above_mark()?;
                self.make(Value::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(&items)?;
            }
            b'}' => self.make(Value::Dict { pairs: None, items: Vec::new() })?,
            b'd' => {
                let items = self.above_mark()?;
                self.make(Value::Dict { pairs: None, items: Vec::new() })?;
                self.set(&items)?;
            }
            b's' => {
                let items = self.above(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set(&items)?;
            }
            // A set's elements, and a frozen set.
            0x90 => drop(self.above_mark()?),
            0x91 => {
                self.above_mark()?;
                self.push(OTHER)?;
            }
            b'c' => {
                let (module, name) = (self.from.line()?, self.from.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let names = self.above(2)?;
                let [Some(module), Some(name)] = [self.text_at(names[0]), self.text_at(names[1])] else {
                    return Err("the name of a class in it is no text".into());
                };
                self.global(module.as_bytes(), name.as_bytes())?;
            }
            b'R' | 0x81 => {
                let called = self.above(2)?;
                self.call(called[0], called[1])?;
            }
            // A call with named arguments.
            0x92 => {
                let called = self.above(3)?;
                self.call(called[0], called[1])?;
            }
            // Objects of protocol 0 and 1: class and arguments above a mark; class by name.
            b'o' => {
                let mut called = self.above_mark()?.into_iter();
                let class = called.next().ok_or("an object in it has no class")?;
                self.make(Value::Object(class))?;
            }
            b'i' => {
                let (module, name) = (self.from.line()?, self.from.line()?);
                self.above_mark()?;
                self.global(module, name)?;
                let class = self.pop()?;
                self.make(Value::Object(class))?;
            }
            // An object's state is passed over.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.make(Value::Persistent(id))?;
            }
            b'q' => {
                let at = self.from.u8()?;
                self.put(at.into())?;
            }
            b'r' => {
                let at = self.from.u32()?;
                self.put(at)?;
            }
            b'p' => {
                let at = self.index_line()?;
                self.put(at)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => {
                let at = self.from.u8()?;
                self.recall(at.into())?;
            }
            b'j' => {
                let at = self.from.u32()?;
                self.recall(at)?;
            }
            b'g' => {
                let at = self.index_line()?;
                self.recall(at)?;
            }
            other => {
                return Err(format!(
                    "operation 0x{other:02x} at byte {} is none that torch.save writes",
                    self.from.at() - 1
                ));
            }
        }
        Ok(true)
    }

    fn make(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.values.len() >= MAX_VALUES {
            return Err(too_many());
        }
        self.values.push(value);
        self.push(self.values.len() as Id - 1)
    }

    fn push(&mut self, id: Id) -> Result<(), String> {
        if self.stack.len() >= MAX_VALUES {
            return Err(too_many());
        }
        self.stack.push(id);
        Ok(())
    }

    /// How high the stack is above the last mark.
    fn reach(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0).min(self.stack.len())
    }

    fn pop(&mut self) -> Result<Id, String> {
        if self.reach() == 0 {
            return Err(too_little());
        }
        self.stack.pop().ok_or_else(too_little)
    }

    fn top(&self) -> Result<Id, String> {
        match self.reach() {
            0 => Err(too_little()),
            _ => self.stack.last().copied().ok_or_else(too_little),
        }
    }

    /// The topmost `count` values in the order in which they were made; exactly so many.
    fn above(&mut self, count: usize) -> Result<Vec<Id>, String> {
        if self.reach() < count {
            return Err(too_little());
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn mark(&mut self) -> Result<usize, String> {
        self.marks.pop().ok_or_else(|| "it takes values from a mark that it has not set".to_owned())
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.mark()?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn text(&mut self, bytes: &'a [u8]) -> Result<(), String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.make(Value::Text(text)),
            // Bytes of Python 2, or text that is none.
            Err(_) => self.push(OTHER),
        }
    }

    fn text_at(&self, id: Id) -> Option<&'a str> {
        match self.values.get(id as usize) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn number_line(&mut self) -> Result<(), String> {
        let line = self.from.line()?;
        let digits = line.strip_suffix(b"L").unwrap_or(line);
        match std::str::from_utf8(digits).ok().and_then(|d| d.trim().parse().ok()) {
            Some(n) => self.make(Value::Int(n)),
            None => self.push(OTHER),
        }
    }

    fn index_line(&mut self) -> Result<u32, String> {
        let line = self.from.line()?;
        let number = std::str::from_utf8(line).ok().and_then(|d| d.trim().parse().ok());
        number.ok_or_else(|| "a place in its memo is no number".to_owned())
    }

    /// An integer of that many bytes, two's complement.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let raw = self.from.take(length)?;
        if length > 8 {
            return self.push(OTHER);
        }
        let fill = if raw.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut bytes = [fill; 8];
        bytes[..length].copy_from_slice(raw);
        self.make(Value::Int(i64::from_le_bytes(bytes)))
    }

    fn global(&mut self, module: &'a [u8], name: &'a [u8]) -> Result<(), String> {
        match (std::str::from_utf8(module), std::str::from_utf8(name)) {
            (Ok(module), Ok(name)) => self.make(Value::Global(module, name)),
            _ => Err("the name of a class in it is no text".into()),
        }
    }

    fn append(&mut self, more: &[Id]) -> Result<(), String> {
        let list = self.top()? as usize;
        // What else has elements is not needed.
        if let Some(Value::List(items)) = self.values.get_mut(list) {
            items.extend(more);
        }
        Ok(())
    }

    fn set(&mut self, more: &[Id]) -> Result<(), String> {
        let dict = self.top()? as usize;
        if let Some(Value::Dict { items, .. }) = self.values.get_mut(dict) {
            items.extend(more.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
        }
        Ok(())
    }

    fn put(&mut self, at: u32) -> Result<(), String> {
        let top = self.top()?;
        if self.memo.len() >= MAX_VALUES {
            return Err(too_many());
        }
        self.memo.insert(at, top);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), String> {
        let Some(&id) = self.memo.get(&at) else {
            return Err(format!("it recalls place {at} of its memo, where nothing is"));
        };
        self.push(id)
    }
}

fn too_many() -> String {
    format!("it makes more than {MAX_VALUES} values, as no file of weights does")
}

fn too_little() -> String {
    "it takes a value that it has not made".to_owned()
}
