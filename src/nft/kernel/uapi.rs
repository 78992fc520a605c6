//! Attribute numbers of linux/netfilter/nf_tables.h, and of what nft itself keeps in user data.
//!
//! libc has the header's values (`NFT_*`) but not its attributes (`NFTA_*`).

/// Message types of the nftables subsystem (`NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_*`).
pub const fn kind(message: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | message as u16
}

/// `enum nft_table_attributes`
pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
}

/// `enum nft_chain_attributes`
pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const COUNTERS: u16 = 8;
    pub const FLAGS: u16 = 10;
}

/// `enum nft_hook_attributes`
pub mod hook {
    pub const HOOKNUM: u16 = 1;
    pub const PRIORITY: u16 = 2;
}

/// `enum nft_rule_attributes`
pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
    pub const COMPAT: u16 = 5;
}

/// `enum nft_set_attributes`
pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const DESC: u16 = 9;
    pub const TIMEOUT: u16 = 11;
    pub const OBJ_TYPE: u16 = 15;
    pub const EXPR: u16 = 17;
    pub const EXPRESSIONS: u16 = 18;
    /// `NFTA_SET_DESC_SIZE`
    pub const DESC_SIZE: u16 = 1;
    /// `NFT_SET_CONCAT`, of the flags: ranges over the fields of a concatenation.
    pub const FLAG_CONCAT: u32 = 0x80;
}

/// `enum nft_set_elem_list_attributes`
pub mod list {
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const ELEMENTS: u16 = 3;
    pub const SET_ID: u16 = 4;
    /// `NFTA_LIST_ELEM`
    pub const ELEM: u16 = 1;
}

/// `enum nft_set_elem_attributes`
pub mod elem {
    pub const KEY: u16 = 1;
    pub const FLAGS: u16 = 3;
    pub const TIMEOUT: u16 = 4;
    pub const EXPIRATION: u16 = 5;
    pub const USERDATA: u16 = 6;
    pub const PAD: u16 = 8;
    pub const KEY_END: u16 = 10;
}

/// `enum nft_data_attributes` and `enum nft_verdict_attributes`
pub mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
}

/// `enum nft_expr_attributes`
pub mod expr {
    pub const NAME: u16 = 1;
    pub const DATA: u16 = 2;
}

/// Attributes of the single expressions, by expression.
pub mod op {
    pub const META_DREG: u16 = 1;
    pub const META_KEY: u16 = 2;
    pub const CT_DREG: u16 = 1;
    pub const CT_KEY: u16 = 2;
    pub const CMP_SREG: u16 = 1;
    pub const CMP_OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const PAYLOAD_DREG: u16 = 1;
    pub const PAYLOAD_BASE: u16 = 2;
    pub const PAYLOAD_OFFSET: u16 = 3;
    pub const PAYLOAD_LEN: u16 = 4;
    pub const BITWISE_SREG: u16 = 1;
    pub const BITWISE_DREG: u16 = 2;
    pub const BITWISE_LEN: u16 = 3;
    pub const BITWISE_MASK: u16 = 4;
    pub const BITWISE_XOR: u16 = 5;
    pub const BITWISE_OP: u16 = 6;
    pub const BYTEORDER_SREG: u16 = 1;
    pub const BYTEORDER_DREG: u16 = 2;
    pub const BYTEORDER_OP: u16 = 3;
    pub const BYTEORDER_LEN: u16 = 4;
    pub const BYTEORDER_SIZE: u16 = 5;
    pub const LOOKUP_SET: u16 = 1;
    pub const LOOKUP_SREG: u16 = 2;
    pub const LOOKUP_FLAGS: u16 = 5;
    pub const IMMEDIATE_DREG: u16 = 1;
    pub const IMMEDIATE_DATA: u16 = 2;
    pub const COUNTER_BYTES: u16 = 1;
    pub const COUNTER_PACKETS: u16 = 2;
    pub const COUNTER_PAD: u16 = 3;
    pub const LOG_GROUP: u16 = 1;
    pub const LOG_PREFIX: u16 = 2;
    pub const LOG_SNAPLEN: u16 = 3;
    pub const LOG_QTHRESHOLD: u16 = 4;
    pub const LOG_LEVEL: u16 = 5;
    pub const LOG_FLAGS: u16 = 6;
    pub const REJECT_TYPE: u16 = 1;
    pub const REJECT_CODE: u16 = 2;
}

/// nft's own data type numbers (its `enum datatypes`), which a set's `KEY_TYPE` carries so that
/// listings know how to print the elements. Part of nft's file format: they never change.
pub mod datatype {
    pub const IPADDR: u32 = 7;
    pub const IP6ADDR: u32 = 8;
    pub const INET_PROTOCOL: u32 = 12;
    pub const INET_SERVICE: u32 = 13;
    pub const ICMP6_TYPE: u32 = 29;
    /// A concatenation of three: six bits each.
    pub const fn concat(a: u32, b: u32, c: u32) -> u32 {
        a << 12 | b << 6 | c
    }
}

/// `NFNL_BATCH_GENID`'s sibling: `NFTA_GEN_ID`.
pub const GEN_ID: u16 = 1;
/// `NFTA_OBJ_TABLE` and `NFTA_FLOWTABLE_TABLE`
pub const OTHER_TABLE: u16 = 1;
/// `NFT_MSG_NEWFLOWTABLE`, which libc has not.
pub const NEW_FLOWTABLE: libc::c_int = 22;
/// `NFT_MSG_GETFLOWTABLE`
pub const GET_FLOWTABLE: libc::c_int = 23;
/// `NFT_SET_ELEM_INTERVAL_END`
pub const INTERVAL_END: u32 = 1;
