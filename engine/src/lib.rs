//! The runtime of quorate.
