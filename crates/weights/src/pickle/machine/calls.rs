//! What calling a class or a function gives: nothing is called.

use super::super::values::{Id, Value};
use super::Machine;

impl Machine<'_> {
    /// A few functions of torch and Python are known by name, all else becomes an opaque object.
    pub(super) fn call(&mut self, function: Id, arguments: Id) -> Result<(), String> {
        let Some(&Value::Global(module, name)) = self.values.get(function as usize) else {
            return self.make(Value::Object(function));
        };
        let given = match self.values.get(arguments as usize) {
            Some(Value::Tuple(items)) => items.as_ref(),
            _ => &[],
        };
        match (module, name) {
            ("collections", "OrderedDict") => {
                let pairs = given.first().copied();
                self.make(Value::Dict { pairs, items: Vec::new() })
            }
            ("collections", "defaultdict") => self.make(Value::Dict { pairs: None, items: Vec::new() }),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
                self.make(Value::Tensor(arguments))
            }
            // Around a tensor, which comes first.
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") | ("torch", "Size") => {
                match given.first() {
                    Some(&inner) => self.push(inner),
                    None => Err(format!("{module}.{name} in it is given nothing")),
                }
            }
            // A tensor with attributes: its function, its class, the function's arguments.
            ("torch._tensor", "_rebuild_from_type_v2") => match given {
                &[function, _, arguments, ..] if self.is_rebuild(function) => self.make(Value::Tensor(arguments)),
                _ => self.make(Value::Object(function)),
            },
            _ => self.make(Value::Object(function)),
        }
    }

    fn is_rebuild(&self, function: Id) -> bool {
        let known = |name: &str| matches!(name, "_rebuild_tensor_v2" | "_rebuild_tensor_v3");
        matches!(self.values.get(function as usize), Some(Value::Global("torch._utils", name)) if known(name))
    }
}
