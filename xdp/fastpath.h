/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables that the fast path's program shares with its writer: the twin of
 * crates/flow/src/fast/layout.rs, which explains them. A test compares the numbers; the
 * assertions below hold the structures to them.
 *
 * Addresses and ports are bytes as in the packet. A state that is odd is being changed: take it
 * before and after what you read.
 */
#ifndef FASTPATH_H
#define FASTPATH_H

#include <linux/types.h>
#include <stddef.h>

#define FAST_SLOT4_WORDS 8
#define FAST_SLOT6_WORDS 16
#define FAST_KEY4_WORDS 1
#define FAST_KEY6_WORDS 4
#define FAST_BUCKET_SLOTS 4

#define FAST_META_INNER_SHIFT 12
#define FAST_META_PORT_SHIFT 24
#define FAST_META_KIND_SHIFT 29
#define FAST_KIND_TCP 1
#define FAST_KIND_UDP 2
#define FAST_KIND_ECHO 3

#define FAST_STATE_SEQUENCE 0xffff

#define FAST_FLAG_SOURCE_ADDR 1
#define FAST_FLAG_SOURCE_PORT 2
#define FAST_FLAG_DESTINATION_ADDR 4
#define FAST_FLAG_DESTINATION_PORT 8
#define FAST_FLAG_TTL_SHIFT 4
#define FAST_TTL_MAX 15
#define FAST_FLAG_METER 256
#define FAST_FLAG_METER_SHIFT 9
#define FAST_METERS_MAX 8388608
#define FAST_HOP_BY_DESTINATION 0xff00

#define FAST_SEEN_SHIFT 20

#define FAST_HOP_WORDS 4
#define FAST_STATE_BUSY 1
#define FAST_STATE_VALID 2

#define FAST_ROUTE_WAYS 4
#define FAST_ROUTE4_WORDS 1
#define FAST_ROUTE6_WORDS 4

#define FAST_LEASE_WORDS 2

#define FAST_METER_WORDS 8

#define FAST_TUNNEL_WORDS 16
#define FAST_TUNNEL_HEADER_WORD 2
#define FAST_TUNNEL_HEADER_MAX 112

#define FAST_PORTS 8
#define FAST_SETTINGS_WORDS 144
#define FAST_SETTINGS_ENABLED_WORD 0
#define FAST_SETTINGS_SEED_WORD 1
#define FAST_SETTINGS_IN_USE_WORD 5
#define FAST_SETTINGS_PORTS_WORD 8
#define FAST_PORT_WORDS 8
#define FAST_SETTINGS_RESERVED4_WORD 72
#define FAST_RESERVED4 16
#define FAST_SETTINGS_RESERVED6_WORD 104
#define FAST_RESERVED6 8
#define FAST_RESERVED_FUNCTION 1
#define FAST_RESERVED_KERNEL 2

#define FAST_PORT_IPV4 1
#define FAST_PORT_IPV6 2
#define FAST_PORT_TAGGED 4
#define FAST_PORT_PARTIAL 8
#define FAST_PORT_RESERVED 16

/* Counters, those of the reasons to punt among them. */
#define FAST_COUNT_HITS 0
#define FAST_COUNT_BYTES 1
#define FAST_PUNT_DISABLED 2
#define FAST_PUNT_UNKNOWN 3
#define FAST_PUNT_BUSY 4
#define FAST_PUNT_EXPIRED 5
#define FAST_PUNT_LEASE 6
#define FAST_PUNT_TCP_EVENT 7
#define FAST_PUNT_ICMP 8
#define FAST_PUNT_FRAGMENT 9
#define FAST_PUNT_TTL 10
#define FAST_PUNT_MTU 11
#define FAST_PUNT_HEADER_CHECKSUM 12
#define FAST_PUNT_PARTIAL_CHECKSUM 13
#define FAST_PUNT_HOP 14
#define FAST_PUNT_ROUTE 15
#define FAST_PUNT_RESERVED 16
#define FAST_PUNT_MALFORMED 17
#define FAST_PUNT_EXTENSION 18
#define FAST_PUNT_TUNNEL 19
#define FAST_PUNT_METER 20
#define FAST_COUNTERS 21

struct fast_rewrite {
	__u16 source_port;
	__u16 destination_port;
	__u16 flags;
	__u16 hop;
};

struct fast_guard {
	__u32 epoch;
	__u16 lease;
	__u8 tunnel;
	__u8 tcp_events;
};

struct fast_seen {
	__u32 packets;
	__u32 last;
};

struct fast_slot4 {
	__u64 addresses;
	__u64 tag;
	__u64 state;
	struct fast_rewrite rewrite;
	struct fast_guard guard;
	__u32 source;
	__u32 destination;
	__u64 bytes;
	struct fast_seen seen;
};

struct fast_slot6 {
	__u64 addresses[4];
	__u64 tag;
	__u64 state;
	struct fast_rewrite rewrite;
	struct fast_guard guard;
	__u64 source[2];
	__u64 destination[2];
	__u64 zero[2];
	__u64 bytes;
	struct fast_seen seen;
};

struct fast_hop {
	__u64 state;
	/* As at the beginning of a frame: destination, source. */
	__u8 macs[12];
	__u16 device;
	__u16 mtu;
	__u64 zero;
};

struct fast_route4 {
	__u32 destination;
	__u16 hop;
	__u8 out;
	__u8 state;
};

struct fast_route6 {
	__u64 state;
	__u64 destination[2];
	__u16 hop;
	__u8 out;
	__u8 zero[5];
};

/* The end is to be read first: who sees the next owner's sees then that the former one's epoch
 * is gone. */
struct fast_lease {
	__u64 epoch;
	__u64 until;
};

/* Index: 0 for packets from inside, 1 for those from outside. */
struct fast_meter {
	__u64 limit;
	__u64 used;
	__u64 packets[2];
	__u64 bytes[2];
	__u64 zero[2];
};

struct fast_tunnel {
	__u64 state;
	__u8 length;
	__u8 family;
	__u8 udp;
	__u8 varies;
	__u8 zero[4];
	__u8 header[FAST_TUNNEL_HEADER_MAX];
};

struct fast_port {
	__u8 station[6];
	__u8 flags;
	__u8 zero;
	__u64 mask4;
	__u64 mask_tag;
	__u64 mask6_source;
	__u64 mask6_destination;
	__u64 rest[3];
};

struct fast_reserved4 {
	__u32 address;
	__u32 mask;
	__u32 what;
	__u32 ports;
};

struct fast_reserved6 {
	__u64 address[2];
	__u64 mask[2];
	__u32 what;
	__u32 ports;
};

struct fast_settings {
	__u64 enabled;
	__u64 add[2];
	__u64 multiply[2];
	__u64 in_use[2]; /* masks of the numbers of slots: IPv4, IPv6 */
	__u64 zero;
	struct fast_port ports[FAST_PORTS];
	struct fast_reserved4 reserved4[FAST_RESERVED4];
	struct fast_reserved6 reserved6[FAST_RESERVED6];
};

#define FAST_WORD_IS(type, field, word) \
	_Static_assert(offsetof(struct type, field) == 8 * (word), #type "." #field)
#define FAST_WORDS_ARE(type, words) \
	_Static_assert(sizeof(struct type) == 8 * (words), #type)

FAST_WORD_IS(fast_slot4, tag, FAST_KEY4_WORDS);
FAST_WORD_IS(fast_slot4, state, FAST_KEY4_WORDS + 1);
FAST_WORD_IS(fast_slot4, rewrite, FAST_KEY4_WORDS + 2);
FAST_WORD_IS(fast_slot4, guard, FAST_KEY4_WORDS + 3);
FAST_WORD_IS(fast_slot4, source, FAST_KEY4_WORDS + 4);
FAST_WORD_IS(fast_slot4, bytes, FAST_SLOT4_WORDS - 2);
FAST_WORD_IS(fast_slot4, seen, FAST_SLOT4_WORDS - 1);
FAST_WORDS_ARE(fast_slot4, FAST_SLOT4_WORDS);
FAST_WORD_IS(fast_slot6, tag, FAST_KEY6_WORDS);
FAST_WORD_IS(fast_slot6, state, FAST_KEY6_WORDS + 1);
FAST_WORD_IS(fast_slot6, rewrite, FAST_KEY6_WORDS + 2);
FAST_WORD_IS(fast_slot6, guard, FAST_KEY6_WORDS + 3);
FAST_WORD_IS(fast_slot6, source, FAST_KEY6_WORDS + 4);
FAST_WORD_IS(fast_slot6, bytes, FAST_SLOT6_WORDS - 2);
FAST_WORD_IS(fast_slot6, seen, FAST_SLOT6_WORDS - 1);
FAST_WORDS_ARE(fast_slot6, FAST_SLOT6_WORDS);
FAST_WORDS_ARE(fast_hop, FAST_HOP_WORDS);
FAST_WORDS_ARE(fast_route4, FAST_ROUTE4_WORDS);
FAST_WORDS_ARE(fast_route6, FAST_ROUTE6_WORDS);
FAST_WORDS_ARE(fast_lease, FAST_LEASE_WORDS);
FAST_WORDS_ARE(fast_meter, FAST_METER_WORDS);
FAST_WORD_IS(fast_tunnel, header, FAST_TUNNEL_HEADER_WORD);
FAST_WORDS_ARE(fast_tunnel, FAST_TUNNEL_WORDS);
FAST_WORDS_ARE(fast_port, FAST_PORT_WORDS);
FAST_WORD_IS(fast_settings, enabled, FAST_SETTINGS_ENABLED_WORD);
FAST_WORD_IS(fast_settings, add, FAST_SETTINGS_SEED_WORD);
FAST_WORD_IS(fast_settings, in_use, FAST_SETTINGS_IN_USE_WORD);
FAST_WORD_IS(fast_settings, ports, FAST_SETTINGS_PORTS_WORD);
FAST_WORD_IS(fast_settings, reserved4, FAST_SETTINGS_RESERVED4_WORD);
FAST_WORD_IS(fast_settings, reserved6, FAST_SETTINGS_RESERVED6_WORD);
FAST_WORDS_ARE(fast_settings, FAST_SETTINGS_WORDS);

#endif
