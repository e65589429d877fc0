//! Pure: converts values to parameters and columns of either engine.

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

/// Makes an array of parameters for a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { [$($crate::db::Value::from($value)),*] };
}
pub(crate) use params;

/// One row of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row(pub(super) Vec<Value>);

impl Row {
    /// Returns the column at `index`, from 0.
    ///
    /// # Errors
    /// Fails on an unexpected NULL or another type of value.
    pub(crate) fn get<T: Column>(&self, index: usize) -> Result<T, Error> {
        let value = self.0.get(index).unwrap_or(&Value::Null);
        T::of(value).ok_or_else(|| Error::Column {
            index,
            found: value.kind(),
            expected: T::EXPECTED,
        })
    }
}

/// A type that a column can be read as.
pub(crate) trait Column: Sized {
    const EXPECTED: &'static str;
    /// Returns the value as this type, or `None` if it has another.
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
    /// SQLite stores flags as numbers.
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
