//! What pickle programs make: values in one table that refer to each other by number.

/// Number of a value.
pub(super) type Id = u32;

/// A value that a program made.
pub(super) enum Value<'a> {
    /// Of truth values, the one that says that a machine is not little-endian.
    False,
    /// `None`, `True`, floats, bytes, sets, huge integers: nothing that is needed to find tensors.
    Other,
    Int(i64),
    Text(&'a str),
    /// A class or function by its module and name.
    Global(&'a str, &'a str),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict {
        /// A list of pairs that it began with.
        pairs: Option<Id>,
        items: Vec<(Id, Id)>,
    },
    /// What a persistent identifier stands for: for torch, a storage.
    Persistent(Id),
    /// A tensor that one of torch's functions would make of these arguments.
    Tensor(Id),
    /// What calling a class or function would give.
    Object(Id),
}

/// What a program left.
pub(super) struct Unpickled<'a> {
    values: Vec<Value<'a>>,
    pub root: Id,
    /// Bytes of the program.
    pub length: usize,
}

impl<'a> Unpickled<'a> {
    pub fn new(values: Vec<Value<'a>>, root: Id, length: usize) -> Self {
        Self { values, root, length }
    }

    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id as usize).unwrap_or(&Value::Other)
    }

    pub fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.values.iter()
    }

    pub fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Keys and values of a dictionary in the order in which they were set.
    pub fn items(&self, id: Id) -> Option<impl Iterator<Item = (Id, Id)>> {
        let Value::Dict { pairs, items } = self.get(id) else { return None };
        let listed = match pairs.map(|id| self.get(id)) {
            Some(Value::List(pairs)) => pairs.as_slice(),
            _ => &[],
        };
        let pair = |id: &Id| match self.get(*id) {
            Value::Tuple(pair) => Some((*pair.first()?, *pair.get(1)?)),
            Value::List(pair) => Some((*pair.first()?, *pair.get(1)?)),
            _ => None,
        };
        Some(listed.iter().filter_map(pair).chain(items.iter().copied()))
    }
}
