/* SPDX-License-Identifier: Apache-2.0
 *
 * What happens to a packet that leaves: the twin of crates/flow/src/fast/rewrite.rs.
 * Checksums follow incrementally, so damage done on the way stays visible.
 */
#ifndef FAST_REWRITE_H
#define FAST_REWRITE_H

#include "fast_packet.h"
#include "fast_tables.h"

/* Replaces one word and notes the change. */
force_inline void replace16(__u8 *at, __u16 word, __u32 *change)
{
	*change += changed16(WORD16(at), word);
	WORD16(at) = word;
}

/* How much hops are counted by. */
force_inline __u8 ttl_of(const struct action *action)
{
	return action->flags >> FAST_FLAG_TTL_SHIFT & FAST_TTL_MAX;
}

/* Ports and the transport's checksum, which the `change` of addresses it covers changes too.
 * Returns 0, or not if the packet is shorter than it was. */
force_inline int rewrite_transport(const struct packet *packet, const struct action *action,
				   __u32 change)
{
	__u8 *l4 = packet->l4;
	__u16 flags = action->flags;

	if (l4 + UDP_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	if (packet->kind == FAST_KIND_ECHO) {
		/* One identifier: the answer's sender knows it as its destination. */
		if (flags & FAST_FLAG_DESTINATION_PORT)
			replace16(l4 + 4, action->destination_port, &change);
		else if (flags & FAST_FLAG_SOURCE_PORT)
			replace16(l4 + 4, action->source_port, &change);
		WORD16(l4 + ICMP_SUM) = settled(WORD16(l4 + ICMP_SUM), change);
		return 0;
	}
	if (flags & FAST_FLAG_SOURCE_PORT)
		replace16(l4, action->source_port, &change);
	if (flags & FAST_FLAG_DESTINATION_PORT)
		replace16(l4 + 2, action->destination_port, &change);
	if (packet->kind == FAST_KIND_UDP) {
		if (WORD16(l4 + UDP_SUM))
			WORD16(l4 + UDP_SUM) = settled_udp(WORD16(l4 + UDP_SUM), change);
		return 0;
	}
	if (l4 + TCP_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	WORD16(l4 + TCP_SUM) = settled(WORD16(l4 + TCP_SUM), change);
	return 0;
}

force_inline int rewrite4(const struct packet *packet, const struct action *action)
{
	__u8 *ip = packet->l3;
	__u32 header = 0, addresses = 0;

	if (ip + IPV4_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	/* The time to live is the low byte of its word. */
	replace16(ip + 8, WORD16(ip + 8) - ttl_of(action), &header);
	if (action->flags & FAST_FLAG_SOURCE_ADDR) {
		addresses += changed32(WORD32(ip + 12), action->source[0]);
		WORD32(ip + 12) = action->source[0];
	}
	if (action->flags & FAST_FLAG_DESTINATION_ADDR) {
		addresses += changed32(WORD32(ip + 16), action->destination[0]);
		WORD32(ip + 16) = action->destination[0];
	}
	WORD16(ip + 10) = settled(WORD16(ip + 10), header + addresses);
	/* The checksum of ICMP does not cover them (RFC 792). */
	if (packet->kind == FAST_KIND_ECHO)
		addresses = 0;
	return rewrite_transport(packet, action, addresses);
}

force_inline int rewrite6(const struct packet *packet, const struct action *action)
{
	__u8 *ip = packet->l3;
	__u32 change = 0;

	if (ip + IPV6_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	ip[7] -= ttl_of(action);
#pragma unroll
	for (int n = 0; n < 4; n++) {
		if (action->flags & FAST_FLAG_SOURCE_ADDR) {
			change += changed32(WORD32(ip + 8 + 4 * n), action->source[n]);
			WORD32(ip + 8 + 4 * n) = action->source[n];
		}
		if (action->flags & FAST_FLAG_DESTINATION_ADDR) {
			change += changed32(WORD32(ip + 24 + 4 * n), action->destination[n]);
			WORD32(ip + 24 + 4 * n) = action->destination[n];
		}
	}
	return rewrite_transport(packet, action, change);
}

/* A tunnel's header, copied whole. */
struct outer {
	__u16 words[FAST_TUNNEL_HEADER_MAX / 2];
	__u64 length;
};

/* Where a processor copies it to: the stack is too small. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct outer);
} outers SEC(".maps");

/* Reads a tunnel, and fills in what depends on the packet. */
force_inline int take_tunnel(__u32 index, const struct packet *packet, __u64 hash,
			     struct outer *outer)
{
	struct fast_tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &index);
	__u64 *to = (__u64 *)outer->words;

	if (!tunnel)
		return FAST_PUNT_TUNNEL;
	__u64 state = TAKE(tunnel->state);
	READ_BARRIER();
	__u64 head = take_word(&tunnel->length);
#pragma unroll
	for (int n = 0; n < FAST_TUNNEL_HEADER_MAX / 8; n++)
		to[n] = take_word(&tunnel->header[8 * n]);
	READ_BARRIER();
	if ((state & FAST_STATE_BUSY) || TAKE(tunnel->state) != state)
		return FAST_PUNT_BUSY;
	if (!(state & FAST_STATE_VALID))
		return FAST_PUNT_TUNNEL;
	outer->length = head & 0xff;
	if (outer->length > FAST_TUNNEL_HEADER_MAX)
		outer->length = FAST_TUNNEL_HEADER_MAX;
	__u32 total = outer->length + packet->length;
	int is_ipv4 = (to[0] >> 4 & 0xf) == 4;
	int udp = head >> 16 & 0xff, varies = head >> 24 & 0xff;
	if (is_ipv4)
		outer->words[1] = bpf_htons(total);
	else
		outer->words[2] = bpf_htons(total - IPV6_BYTES);
	/* UDP follows the outer header or is not there. */
	if (udp == IPV4_BYTES) {
		outer->words[IPV4_BYTES / 2 + 2] = bpf_htons(total - IPV4_BYTES);
		if (varies)
			outer->words[IPV4_BYTES / 2] = bpf_htons(0xc000 | (hash & 0x3fff));
	} else if (udp == IPV6_BYTES) {
		outer->words[IPV6_BYTES / 2 + 2] = bpf_htons(total - IPV6_BYTES);
		if (varies)
			outer->words[IPV6_BYTES / 2] = bpf_htons(0xc000 | (hash & 0x3fff));
	}
	if (is_ipv4) {
		__u32 sum = 0;
#pragma unroll
		for (int n = 0; n < IPV4_BYTES / 2; n++)
			sum += outer->words[n];
		outer->words[5] = ~folded(sum);
	}
	return 0;
}

/* Makes room in front and puts the header between the link's and the packet, whose place is
 * known anew afterwards. */
force_inline int push(struct xdp_md *ctx, const struct outer *outer, struct packet *packet)
{
	__u32 at = packet->l3_at & 0x1f, length = outer->length & 0x7f;
	__u16 type = (outer->words[0] & 0xf0) == 0x40 ? bpf_htons(ETHERTYPE_IPV4)
						       : bpf_htons(ETHERTYPE_IPV6);
	__u8 link[32] = {};

	if (at < ETH_BYTES || length < IPV4_BYTES || bpf_xdp_load_bytes(ctx, 0, link, at))
		return FAST_PUNT_TUNNEL;
	/* It was bounded when it was read, which the verifier does not remember. */
	asm volatile("" : "+r"(length));
	if (length > FAST_TUNNEL_HEADER_MAX)
		return FAST_PUNT_TUNNEL;
	if (bpf_xdp_adjust_head(ctx, -(int)length))
		return FAST_PUNT_TUNNEL;
	/* These bytes are there: they were, or have just been made. */
	bpf_xdp_store_bytes(ctx, 0, link, at);
	bpf_xdp_store_bytes(ctx, at - 2, &type, 2);
	bpf_xdp_store_bytes(ctx, at, (void *)outer->words, length);
	struct frame frame = frame_of(ctx);
	packet->end = frame.end;
	packet->l3 = frame.data + at + length;
	packet->l4 = packet->l3 + (packet->l4_at & 0x3fff);
	return 0;
}

#endif
