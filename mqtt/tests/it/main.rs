//! The codec and the tries from outside.

mod bytes_of;
mod clauses_connect;
mod clauses_packets;
mod codec_properties;
mod corpus;
mod fuzz_decode;
mod fuzz_roundtrip;
mod generate;
mod golden;
mod listed;
mod listed_codes;
mod mqttbytes_defects;
mod mqttbytes_differential;
mod sizes;
mod topic_tree;
mod topics;
mod trie;
