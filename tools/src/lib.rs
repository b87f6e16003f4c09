//! Operator and developer programs of quorate.
