/* SPDX-License-Identifier: Apache-2.0
 *
 * The switch: gives every flow to one instance, and the instances' answers back
 * to the hosts. The rules of `steer` are those of the Rust reference core,
 * crates/flow/src/steering.rs, which a test runs against this program; rule
 * numbers below are its.
 *
 *                     inside                      outside
 *        hosts ──▶ bucket of source ─┐    ┌─ bucket of destination ◀── hosts
 *                                    ▼    ▼
 *                                   instance
 *        hosts ◀── MAC, or all ──────┘    └────── MAC, or all ──▶ hosts
 *
 * ARP from a host goes to every other port of its side; from an instance to the
 * hosts of that side only, since all instances carry the same addresses.
 */
#include "stateplane.h"

#define BUCKETS 1024
#define CODE_FLOOD (BUCKETS + 0)
#define CODE_PASS (BUCKETS + 1)
#define CODE_DROP (BUCKETS + 2)
#define BLOCK_SHIFT 8
#define MAX_PORTS 64

#define INSIDE 0
#define OUTSIDE 1

enum {
	COUNT_STEERED,
	COUNT_FLOODED,
	COUNT_TO_HOST,
	COUNT_PASSED,
	COUNT_MALFORMED,
	COUNT_NOBODY,
	COUNT_FAILED,
	COUNT_FILTERED,
	COUNTERS
};

/* What is connected to a port. */
struct role {
	__u8 side;
	__u8 is_instance;
	__u8 index; /* of the instance, or of the host port within its side */
	__u8 unused;
};

struct table {
	__u8 owner[2][BUCKETS]; /* by side */
};

struct station {
	__u8 side;
	__u8 mac[6];
	__u8 unused;
};

/* By interface number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct role);
} roles SEC(".maps");

/* The table in use and the next one: `active` says which is which, so that a
 * change of any size takes effect at once. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} active SEC(".maps");

/* Number of host ports of each side. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} host_count SEC(".maps");

#define DEVICES(name, entries)                    \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_DEVMAP);        \
		__uint(max_entries, entries);             \
		__type(key, __u32);                       \
		__type(value, struct bpf_devmap_val);     \
	} name SEC(".maps")

/* By instance. */
DEVICES(inside_instances, 256);
DEVICES(outside_instances, 256);
/* By number of the host port. */
DEVICES(inside_hosts, MAX_PORTS);
DEVICES(outside_hosts, MAX_PORTS);
/* All ports of a side. */
DEVICES(inside_all, 256 + MAX_PORTS);
DEVICES(outside_all, 256 + MAX_PORTS);

/* Which host port of its side a hardware address was last seen on; only kept
 * where a side has several. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct station);
	__type(value, __u32);
} stations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

force_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);
	if (counter)
		*counter += 1;
}

force_inline __u32 mix(__u32 x)
{
	x ^= x >> 16;
	x *= 0x7feb352d;
	x ^= x >> 15;
	x *= 0x846ca68b;
	return x ^ (x >> 16);
}

force_inline __u32 bucket(__u32 side, __u32 protocol, __u32 address, __u32 port)
{
	if (side == INSIDE)
		return mix(mix(address ^ 0x1b56c4e9) ^ (protocol << 16 | port)) >> 22;
	return mix(mix(address ^ 0x7a3d90f5) ^ (port >> BLOCK_SHIFT)) >> 22;
}

/* Rule 9, for the packet embedded in an ICMP error that begins at `inner` and
 * has `left` bytes before the end of the outer packet. */
force_inline __u32 steer_error(const __u8 *inner, const __u8 *end, __u32 left, __u32 side)
{
	if (left < IPV4_BYTES || inner + IPV4_BYTES > end)
		return CODE_DROP;
	__u32 header = (inner[0] & 0x0f) * 4;
	if (inner[0] >> 4 != 4 || header < IPV4_BYTES || header + 8 > left)
		return CODE_DROP;
	__u32 protocol = inner[9];
	__u32 address = be32(inner + (side == INSIDE ? 16 : 12));
	__u32 is_later_fragment = be16(inner + 6) & 0x1fff;
	const __u8 *l4 = inner + header;
	if (l4 + 8 > end)
		return CODE_DROP;
	__u32 port = 0;
	if (is_later_fragment)
		port = 0;
	else if (protocol == PROTO_TCP || protocol == PROTO_UDP)
		port = be16(l4 + (side == INSIDE ? 2 : 0));
	else if (protocol == PROTO_ICMP && (l4[0] == 0 || l4[0] == 8))
		port = be16(l4 + 4);
	return bucket(side, protocol, address, port);
}

/* Bucket of a frame from a host, or a code. */
force_inline __u32 steer(struct frame frame, __u32 side)
{
	const __u8 *end = frame.end;
	const __u8 *ip = frame.data + ETH_BYTES;
	if (ip > end) /* 1 */
		return CODE_DROP;
	__u16 type = be16(frame.data + 12);
	if (type == ETHERTYPE_ARP) /* 2 */
		return CODE_FLOOD;
	if (type != ETHERTYPE_IPV4 || frame.data[0] & 1) /* 3, 4 */
		return CODE_PASS;

	if (ip + IPV4_BYTES > end) /* 5 */
		return CODE_DROP;
	__u32 header = (ip[0] & 0x0f) * 4;
	__u32 total = be16(ip + 2);
	if (ip[0] >> 4 != 4 || header < IPV4_BYTES || total < header)
		return CODE_DROP;
	if (ip + total > end)
		return CODE_DROP;
	__u32 protocol = ip[9];
	__u32 address = be32(ip + (side == INSIDE ? 12 : 16));
	if (be16(ip + 6) & 0x3fff) /* 6 */
		return bucket(side, protocol, address, 0);

	__u32 left = total - header;
	const __u8 *l4 = ip + header;
	__u32 port = 0;
	if (protocol == PROTO_TCP || protocol == PROTO_UDP) { /* 7 */
		if (left < 4 || l4 + 4 > end)
			return CODE_DROP;
		port = be16(l4 + (side == INSIDE ? 0 : 2));
	} else if (protocol == PROTO_ICMP) { /* 8 */
		if (left < 8 || l4 + 8 > end)
			return CODE_DROP;
		__u8 kind = l4[0];
		if (kind == 3 || kind == 11 || kind == 12)
			return steer_error(l4 + 8, end, left - 8, side);
		if (kind == 0 || kind == 8)
			port = be16(l4 + 4);
	}
	return bucket(side, protocol, address, port); /* 7, 8, 10 */
}

/* The verdict of a redirect. What cannot be sent is dropped, not passed: the
 * switch's kernel has no use for it. */
force_inline int sent(long action, __u32 counter)
{
	count(action == XDP_REDIRECT ? counter : COUNT_FAILED);
	return action;
}

force_inline int flood(__u32 side)
{
	const __u64 flags = BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS;
	if (side == INSIDE)
		return sent(bpf_redirect_map(&inside_all, 0, flags), COUNT_FLOODED);
	return sent(bpf_redirect_map(&outside_all, 0, flags), COUNT_FLOODED);
}

force_inline int to_all_hosts(__u32 side)
{
	const __u64 flags = BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS;
	if (side == INSIDE)
		return sent(bpf_redirect_map(&inside_hosts, 0, flags), COUNT_TO_HOST);
	return sent(bpf_redirect_map(&outside_hosts, 0, flags), COUNT_TO_HOST);
}

force_inline int to_host(__u32 side, __u32 index)
{
	if (side == INSIDE)
		return sent(bpf_redirect_map(&inside_hosts, index, XDP_DROP), COUNT_TO_HOST);
	return sent(bpf_redirect_map(&outside_hosts, index, XDP_DROP), COUNT_TO_HOST);
}

force_inline int to_instance(__u32 side, __u32 bucket)
{
	__u32 zero = 0;
	__u32 *which = bpf_map_lookup_elem(&active, &zero);
	if (!which)
		return XDP_ABORTED;
	struct table *table = bpf_map_lookup_elem(&tables, which);
	if (!table)
		return XDP_ABORTED;
	__u32 owner = table->owner[side & 1][bucket & (BUCKETS - 1)];
	if (owner == 255) {
		count(COUNT_NOBODY);
		return XDP_DROP;
	}
	if (side == INSIDE)
		return sent(bpf_redirect_map(&inside_instances, owner, XDP_DROP), COUNT_STEERED);
	return sent(bpf_redirect_map(&outside_instances, owner, XDP_DROP), COUNT_STEERED);
}

/* Whether a side has more than one host port. */
force_inline int has_several_hosts(__u32 side)
{
	__u32 *hosts = bpf_map_lookup_elem(&host_count, &side);
	return hosts && *hosts > 1;
}

force_inline __u32 *host_of(__u32 side, const __u8 *mac)
{
	struct station station = { .side = side };
	__builtin_memcpy(station.mac, mac, 6);
	return bpf_map_lookup_elem(&stations, &station);
}

/* Remembers where a host's address was seen, unless that is known. */
force_inline void learn(__u32 side, const __u8 *mac, __u32 index)
{
	struct station station = { .side = side };
	__builtin_memcpy(station.mac, mac, 6);
	__u32 *known = bpf_map_lookup_elem(&stations, &station);
	if (known && *known == index)
		return;
	bpf_map_update_elem(&stations, &station, &index, BPF_ANY);
}

force_inline int from_instance(struct frame frame, __u32 side)
{
	if (!has_several_hosts(side))
		return to_host(side, 0);
	if (!(frame.data[0] & 1)) {
		__u32 *index = host_of(side, frame.data);
		if (index)
			return to_host(side, *index);
	}
	return to_all_hosts(side);
}

force_inline int from_host(struct frame frame, const struct role *role)
{
	__u32 side = role->side;
	if (has_several_hosts(side)) {
		learn(side, frame.data + 6, role->index);
		/* Hosts of one side reach each other as on any switch. */
		if (!(frame.data[0] & 1)) {
			__u32 *index = host_of(side, frame.data);
			if (index && *index == role->index) {
				/* Both are behind this port: it has arrived already. */
				count(COUNT_FILTERED);
				return XDP_DROP;
			}
			if (index)
				return to_host(side, *index);
		}
	}
	__u32 code = steer(frame, side);
	if (code < BUCKETS)
		return to_instance(side, code);
	if (code == CODE_FLOOD)
		return flood(side);
	if (code == CODE_PASS) {
		count(COUNT_PASSED);
		return XDP_PASS;
	}
	count(COUNT_MALFORMED);
	return XDP_DROP;
}

SEC("xdp")
int steering(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);
	if (frame.data + ETH_BYTES > frame.end) {
		count(COUNT_MALFORMED);
		return XDP_DROP;
	}
	__u32 ifindex = ctx->ingress_ifindex;
	struct role *role = bpf_map_lookup_elem(&roles, &ifindex);
	if (!role) {
		count(COUNT_PASSED);
		return XDP_PASS;
	}
	if (role->is_instance)
		return from_instance(frame, role->side);
	return from_host(frame, role);
}

/* The bare decision as the return value, for comparison with the reference. */
SEC("xdp")
int probe_inside(struct xdp_md *ctx)
{
	return steer(frame_of(ctx), INSIDE);
}

SEC("xdp")
int probe_outside(struct xdp_md *ctx)
{
	return steer(frame_of(ctx), OUTSIDE);
}

char _license[] SEC("license") = "Apache-2.0";
