//! The client protocol: connect frames, requests, replies and watch events, both sides of each.
//!
//! Every encoder appends whole messages with their length of four bytes; every decoder takes a frame
//! or a body without it, as a [`FrameReader`](crate::FrameReader) hands frames out. Sessions, order
//! and answers are other crates' business.

mod connect;
mod reply;
mod request;

pub use connect::{ConnectRequest, ConnectResponse, PASSWORD_LEN, encode_connect_response};
pub use reply::{
    EventKind, OpResult, ReplyHeader, WatchEvent, XID_EVENT, decode_acl_and_stat, decode_children,
    decode_children_and_stat, decode_data_and_stat, decode_multi_reply, decode_path,
    decode_path_and_stat, decode_stat, encode_acl_reply, encode_children_reply,
    encode_create_reply, encode_create2_reply, encode_data_reply, encode_multi_reply, encode_reply,
    encode_reply_header, encode_stat_reply, encode_sync_reply, encode_watch_event,
};
pub use request::{
    Auth, ClientRequest, MULTI_OPS_MAX, RequestHeader, XID_AUTH, XID_PING, XID_SET_WATCHES,
    decode_auth, decode_request, encode_auth, encode_close_session, encode_create, encode_delete,
    encode_exists, encode_get_children, encode_get_data, encode_multi, encode_ping, encode_request,
    encode_set_data, encode_sync, opcode_of,
};

#[cfg(test)]
mod tests;
