//! ZooKeeper's operation codes (`ZooDefs.OpCode`), as requests and as transaction types.
//!
//! Says nothing about which of them are served.

/// The type of a refused request's transaction.
pub const ERROR: i32 = -1;
/// Opens a session; internal.
pub const CREATE_SESSION: i32 = -10;
/// Closes a session.
pub const CLOSE_SESSION: i32 = -11;
/// create.
pub const CREATE: i32 = 1;
/// delete.
pub const DELETE: i32 = 2;
/// exists.
pub const EXISTS: i32 = 3;
/// getData.
pub const GET_DATA: i32 = 4;
/// setData.
pub const SET_DATA: i32 = 5;
/// getACL.
pub const GET_ACL: i32 = 6;
/// setACL.
pub const SET_ACL: i32 = 7;
/// getChildren.
pub const GET_CHILDREN: i32 = 8;
/// sync.
pub const SYNC: i32 = 9;
/// ping.
pub const PING: i32 = 11;
/// getChildren with the parent's Stat.
pub const GET_CHILDREN2: i32 = 12;
/// check; only inside a multi.
pub const CHECK: i32 = 13;
/// multi.
pub const MULTI: i32 = 14;
/// create whose reply has a Stat.
pub const CREATE2: i32 = 15;
/// auth.
pub const AUTH: i32 = 100;
/// setWatches.
pub const SET_WATCHES: i32 = 101;
