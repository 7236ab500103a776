// SPDX-License-Identifier: Apache-2.0
//
// What a forwarding program of this kind can reach at most on a machine: the yardstick of
// the benchmark. Each program does one thing more than the one before, in the plain way.
//
//   limit_redirect   every frame leaves by the other interface
//   limit_lookup     read the headers, look the flow up in one BPF hash map, then that
//   limit_nat        and rewrite: source address and port, time to live, checksums, MACs
//
// They know IPv4 without options, UDP and TCP, and leave the rest to the kernel.

#include "checksum.h"
#include "stateplane.h"

#define UDP_BYTES 8
#define TCP_BYTES 20

// A flow, fields as in the packet. Padded: the map hashes all bytes.
struct limit_flow {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

struct limit_action {
	__be32 source;
	__be16 source_port;
	__u16 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct limit_flow);
	__type(value, struct limit_action);
} limit_flows SEC(".maps");

// Destination and source address of the frames that leave.
struct limit_hop {
	__u32 macs[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limit_hop);
} limit_hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} limit_out SEC(".maps");

// The headers of a packet that the programs know.
struct headers {
	__u8 *ip;
	__u8 *transport;
	__u8 protocol;
};

force_inline int read_headers(struct xdp_md *ctx, struct headers *headers)
{
	struct frame frame = frame_of(ctx);
	__u8 *ip = frame.data + ETH_BYTES;

	headers->ip = ip;
	headers->transport = ip + IPV4_BYTES;
	if (headers->transport + UDP_BYTES > frame.end)
		return 0;
	if (be16(frame.data + 12) != ETHERTYPE_IPV4 || ip[0] != 0x45)
		return 0;
	// More fragments, or not the first.
	if (be16(ip + 6) & 0x3fff)
		return 0;
	headers->protocol = ip[9];
	if (headers->protocol == PROTO_UDP)
		return 1;
	return headers->protocol == PROTO_TCP && headers->transport + TCP_BYTES <= frame.end;
}

force_inline struct limit_action *look_up(const struct headers *headers)
{
	struct limit_flow flow = {
		.source = WORD32(headers->ip + 12),
		.destination = WORD32(headers->ip + 16),
		.source_port = WORD16(headers->transport),
		.destination_port = WORD16(headers->transport + 2),
		.protocol = headers->protocol,
	};

	return bpf_map_lookup_elem(&limit_flows, &flow);
}

force_inline void rewrite(const struct headers *headers, const struct limit_action *action)
{
	__u8 *ip = headers->ip, *transport = headers->transport;
	// Sums are over words as they lie in memory: the order of bytes does not matter
	// (RFC 1071, 2.B).
	__u32 address = changed32(WORD32(ip + 12), action->source);
	__u32 header = address + changed16(WORD16(ip + 8), WORD16(ip + 8) - 1);
	__u32 message = address + changed16(WORD16(transport), action->source_port);

	ip[8] -= 1;
	WORD32(ip + 12) = action->source;
	WORD16(ip + 10) = settled(WORD16(ip + 10), header);
	WORD16(transport) = action->source_port;
	if (headers->protocol == PROTO_TCP)
		WORD16(transport + 16) = settled(WORD16(transport + 16), message);
	else if (WORD16(transport + 6))
		WORD16(transport + 6) = settled_udp(WORD16(transport + 6), message);
}

SEC("xdp")
int limit_redirect(struct xdp_md *ctx)
{
	(void)ctx;
	return bpf_redirect_map(&limit_out, 0, XDP_DROP);
}

SEC("xdp")
int limit_lookup(struct xdp_md *ctx)
{
	struct headers headers;

	if (!read_headers(ctx, &headers) || !look_up(&headers))
		return XDP_PASS;
	return bpf_redirect_map(&limit_out, 0, XDP_DROP);
}

SEC("xdp")
int limit_nat(struct xdp_md *ctx)
{
	struct headers headers;
	__u32 zero = 0;
	struct limit_hop *hop = bpf_map_lookup_elem(&limit_hops, &zero);

	if (!hop || !read_headers(ctx, &headers))
		return XDP_PASS;
	struct limit_action *action = look_up(&headers);
	if (!action || headers.ip[8] <= 1)
		return XDP_PASS;
	rewrite(&headers, action);
	__u8 *ethernet = headers.ip - ETH_BYTES;
	WORD32(ethernet) = hop->macs[0];
	WORD32(ethernet + 4) = hop->macs[1];
	WORD32(ethernet + 8) = hop->macs[2];
	return bpf_redirect_map(&limit_out, 0, XDP_DROP);
}

char _license[] SEC("license") = "Apache-2.0";
