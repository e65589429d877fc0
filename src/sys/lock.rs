//! How is a collection locked that any thread may have died with?

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a collection; a thread that died in mid-operation left no half-done change in it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
