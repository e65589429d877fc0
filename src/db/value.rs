//! Pure: how do values go into a database and come out of it, whichever it is?

use super::Error;

/// A value of a parameter or a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) => "a number",
            Self::Bool(_) => "a flag",
            Self::Text(_) => "text",
        }
    }
}

macro_rules! from {
    ($($type:ty => |$it:ident| $value:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($it: $type) -> Self { $value }
        })*
    };
}

from! {
    i64 => |number| Self::Int(number);
    i32 => |number| Self::Int(number.into());
    u32 => |number| Self::Int(number.into());
    bool => |flag| Self::Bool(flag);
    &str => |text| Self::Text(text.to_owned());
    String => |text| Self::Text(text);
    &String => |text| Self::Text(text.clone());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Makes the parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { [$($crate::db::Value::from($value)),*] };
}
pub(crate) use params;

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row(pub(super) Vec<Value>);

impl Row {
    /// Returns the column at `index`, from 0.
    ///
    /// # Errors
    /// A NULL where none was expected, or another kind of value.
    pub(crate) fn get<T: Column>(&self, index: usize) -> Result<T, Error> {
        let value = self.0.get(index).unwrap_or(&Value::Null);
        T::of(value).ok_or_else(|| Error::Column {
            index,
            found: value.kind(),
            expected: T::EXPECTED,
        })
    }
}

/// What a column can be read as.
pub(crate) trait Column: Sized {
    const EXPECTED: &'static str;
    /// Returns the value as this type, if it is one.
    fn of(value: &Value) -> Option<Self>;
}

impl Column for i64 {
    const EXPECTED: &'static str = "a number";
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl Column for i32 {
    const EXPECTED: &'static str = "a small number";
    fn of(value: &Value) -> Option<Self> {
        i64::of(value)?.try_into().ok()
    }
}

impl Column for bool {
    const EXPECTED: &'static str = "a flag";
    /// SQLite has numbers for flags.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(*flag),
            Value::Int(number @ 0..=1) => Some(*number == 1),
            _ => None,
        }
    }
}

impl Column for String {
    const EXPECTED: &'static str = "text";
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl<T: Column> Column for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            other => T::of(other).map(Some),
        }
    }
}
