/* SPDX-License-Identifier: Apache-2.0
 *
 * Which packets the fast path can forward, and what it has to know of them: the twin of
 * crates/flow/src/fast/packet.rs. What is read here returns 0, or why the packet is left to
 * the function (FAST_PUNT_*), or that it is the kernel's.
 */
#ifndef FAST_PACKET_H
#define FAST_PACKET_H

#include "checksum.h"
#include "fastpath.h"
#include "stateplane.h"

#define KERNEL (-1)

#define ETHERTYPE_IPV6 0x86dd
#define PROTO_HOP_BY_HOP 0
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AUTHENTICATION 51
#define PROTO_ICMPV6 58
#define PROTO_DESTINATION_OPTIONS 60
#define EXTENSIONS_MAX 6

#define IPV6_BYTES 40
#define TCP_BYTES 20
#define UDP_BYTES 8
#define ICMP_BYTES 8
#define TAG_BYTES 4

/* Offsets within the transport header. */
#define TCP_SUM 16
#define UDP_SUM 6
#define ICMP_SUM 2

struct packet {
	__u8 *l3;
	__u8 *l4;
	__u8 *end;    /* of the frame */
	__u32 l3_at;
	__u32 l4_at;
	__u32 length; /* of the IP packet */
	__u32 vlans;
	__u16 type;
	__u16 source_port;
	__u16 destination_port;
	__u8 kind;
	__u8 ttl;
	__u8 tcp_flags;
};

/* The Ethernet header with at most two tags. */
force_inline int read_link(struct frame frame, struct packet *packet)
{
	packet->l3 = frame.data + ETH_BYTES;
	packet->l3_at = ETH_BYTES;
	packet->end = frame.end;
	packet->vlans = 0;
	if (packet->l3 > frame.end)
		return KERNEL;
	packet->type = be16(frame.data + 12);
#pragma unroll
	for (int tag = 0; tag < 2; tag++) {
		if (packet->type != ETHERTYPE_VLAN && packet->type != ETHERTYPE_SVLAN)
			break;
		if (packet->l3 + TAG_BYTES > frame.end)
			return KERNEL;
		__u32 id = be16(packet->l3) & 0xfff;
		packet->vlans |= id << (tag * FAST_META_INNER_SHIFT);
		packet->type = be16(packet->l3 + 2);
		packet->l3 += TAG_BYTES;
		packet->l3_at += TAG_BYTES;
	}
	return 0;
}

force_inline int read_tcp(struct packet *packet, __u32 room)
{
	const __u8 *tcp = packet->l4;

	if (room < TCP_BYTES || tcp + TCP_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	__u32 length = (tcp[12] >> 4) * 4;
	if (length < TCP_BYTES || length > room)
		return FAST_PUNT_MALFORMED;
	packet->kind = FAST_KIND_TCP;
	packet->source_port = WORD16(tcp);
	packet->destination_port = WORD16(tcp + 2);
	packet->tcp_flags = tcp[13];
	return 0;
}

force_inline int read_udp(struct packet *packet, __u32 room)
{
	const __u8 *udp = packet->l4;

	if (room < UDP_BYTES || udp + UDP_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	__u32 length = be16(udp + 4);
	if (length < UDP_BYTES || length > room)
		return FAST_PUNT_MALFORMED;
	packet->kind = FAST_KIND_UDP;
	packet->source_port = WORD16(udp);
	packet->destination_port = WORD16(udp + 2);
	return 0;
}

/* An echo's identifier is both of its ports. */
force_inline int read_echo(struct packet *packet, __u32 room, __u8 request, __u8 reply)
{
	const __u8 *icmp = packet->l4;

	if (room < ICMP_BYTES || icmp + ICMP_BYTES > packet->end)
		return FAST_PUNT_MALFORMED;
	if (icmp[0] != request && icmp[0] != reply)
		return FAST_PUNT_ICMP;
	/* It may consist of zeros alone; then an update of its checksum does not suffice. */
	if (icmp[0] == 0 && !WORD16(icmp + 6))
		return FAST_PUNT_ICMP;
	packet->kind = FAST_KIND_ECHO;
	packet->source_port = WORD16(icmp + 4);
	packet->destination_port = WORD16(icmp + 4);
	return 0;
}

/* Whether the sender left the transport checksum unfinished: the sum of the pseudo-header
 * alone, whose addresses sum up to `sum`. It covers what UDP counts, which may be less than IP
 * carries. */
force_inline int has_partial_checksum(const struct packet *packet, __u64 sum, __u32 room)
{
	if (packet->kind == FAST_KIND_UDP) {
		sum += bpf_htons(PROTO_UDP) + WORD16(packet->l4 + 4);
		return WORD16(packet->l4 + UDP_SUM) == folded64(sum);
	}
	if (packet->kind != FAST_KIND_TCP || packet->l4 + TCP_BYTES > packet->end)
		return 0;
	sum += bpf_htons(PROTO_TCP) + bpf_htons(room);
	return WORD16(packet->l4 + TCP_SUM) == folded64(sum);
}

/* The sum of the options of the IPv4 header at `at`, which has `length` bytes with them. A function
 * of its own, verified once and not for each way to get here. */
__attribute__((noinline)) __u32 options_sum(struct xdp_md *ctx, __u32 at, __u32 length)
{
	__u32 words[10] = {};
	__u64 sum = 0;

	length -= IPV4_BYTES;
	if (length < 4 || length > sizeof(words))
		return 0;
	if (bpf_xdp_load_bytes(ctx, at + IPV4_BYTES, words, length))
		return 0;
#pragma unroll
	for (int n = 0; n < 10; n++)
		sum += words[n];
	return folded64(sum);
}

/* The sum of an IPv4 header. */
force_inline __u16 ipv4_sum(struct xdp_md *ctx, const struct packet *packet, __u32 length)
{
	const __u8 *ip = packet->l3;
	__u64 words = 0;

#pragma unroll
	for (int at = 0; at < IPV4_BYTES; at += 4)
		words += WORD32(ip + at);
	if (length > IPV4_BYTES)
		words += options_sum(ctx, packet->l3_at, length);
	return folded64(words);
}

force_inline int read_ipv4(struct xdp_md *ctx, struct packet *packet, __u8 port_flags)
{
	const __u8 *ip = packet->l3;

	if (ip + IPV4_BYTES > packet->end)
		return KERNEL;
	__u8 protocol = ip[9];
	if (protocol != PROTO_TCP && protocol != PROTO_UDP && protocol != PROTO_ICMP)
		return KERNEL;
	/* Multicast, the limited broadcast and what lies between. */
	if (ip[16] >= 224)
		return KERNEL;
	__u32 header = (ip[0] & 0xf) * 4;
	packet->length = be16(ip + 2);
	if (ip[0] >> 4 != 4 || header < IPV4_BYTES || packet->length < header ||
	    packet->length > packet->end - ip)
		return FAST_PUNT_MALFORMED;
	if (ipv4_sum(ctx, packet, header) != 0xffff)
		return FAST_PUNT_HEADER_CHECKSUM;
	/* More fragments follow, or came before. */
	if (be16(ip + 6) & 0x3fff)
		return FAST_PUNT_FRAGMENT;
	packet->ttl = ip[8];
	packet->tcp_flags = 0;
	packet->l4 = packet->l3 + header;
	packet->l4_at = header;
	__u32 room = packet->length - header;
	int verdict;
	if (protocol == PROTO_TCP)
		verdict = read_tcp(packet, room);
	else if (protocol == PROTO_UDP)
		verdict = read_udp(packet, room);
	else
		verdict = read_echo(packet, room, 8, 0);
	if (verdict || !(port_flags & FAST_PORT_PARTIAL))
		return verdict;
	__u64 addresses = (__u64)WORD32(ip + 12) + WORD32(ip + 16);
	return has_partial_checksum(packet, addresses, room) ? FAST_PUNT_PARTIAL_CHECKSUM : 0;
}

/* Where the transport begins behind extension headers, or why it cannot be told. */
struct passed {
	__u32 at; /* from the IPv6 header on */
	__u8 next;
	__s8 verdict;
};

force_inline int is_transport(__u8 next)
{
	return next == PROTO_TCP || next == PROTO_UDP || next == PROTO_ICMPV6;
}

/* Passes over extension headers that a router may pass over (RFC 8200 section 4), of a packet
 * of `length` bytes at `l3_at`. A function of its own, verified once. */
__attribute__((noinline)) int pass_extensions(struct xdp_md *ctx, __u32 l3_at, __u32 length,
					      struct passed *passed)
{
	if (!passed)
		return 0;
	passed->verdict = FAST_PUNT_EXTENSION;
	for (int number = 0; number <= EXTENSIONS_MAX; number++) {
		__u8 header[8], kind = passed->next;
		if (is_transport(kind)) {
			passed->verdict = 0;
			return 0;
		}
		passed->verdict = FAST_PUNT_MALFORMED;
		if (kind == PROTO_FRAGMENT)
			passed->verdict = FAST_PUNT_FRAGMENT;
		else if (kind == PROTO_AUTHENTICATION)
			passed->verdict = FAST_PUNT_EXTENSION;
		else if (kind != PROTO_HOP_BY_HOP && kind != PROTO_ROUTING &&
			 kind != PROTO_DESTINATION_OPTIONS)
			passed->verdict = KERNEL;
		if (passed->verdict != FAST_PUNT_MALFORMED ||
		    (kind == PROTO_HOP_BY_HOP && number > 0) || passed->at + 8 > length ||
		    bpf_xdp_load_bytes(ctx, l3_at + passed->at, header, sizeof(header)))
			return 0;
		/* With segments left the destination is not the last one, and the checksum is
		 * over that one. */
		if (number == EXTENSIONS_MAX || (kind == PROTO_ROUTING && header[3])) {
			passed->verdict = FAST_PUNT_EXTENSION;
			return 0;
		}
		passed->next = header[0];
		passed->at += (header[1] + 1) * 8;
		if (passed->at > length)
			return 0;
	}
	return 0;
}

force_inline int read_ipv6(struct xdp_md *ctx, struct packet *packet, __u8 port_flags)
{
	const __u8 *ip = packet->l3;

	if (ip + IPV6_BYTES > packet->end)
		return KERNEL;
	if (ip[24] == 0xff)
		return KERNEL;
	packet->length = IPV6_BYTES + be16(ip + 4);
	if (packet->length > packet->end - ip || ip[0] >> 4 != 6)
		return FAST_PUNT_MALFORMED;
	struct passed passed = { .at = IPV6_BYTES, .next = ip[6] };
	if (!is_transport(passed.next)) {
		pass_extensions(ctx, packet->l3_at, packet->length, &passed);
		if (passed.verdict)
			return passed.verdict;
	}
	int verdict;
	packet->ttl = ip[7];
	packet->tcp_flags = 0;
	packet->l4_at = passed.at & 0x3fff;
	packet->l4 = packet->l3 + packet->l4_at;
	__u32 room = packet->length - passed.at;
	if (passed.next == PROTO_TCP)
		verdict = read_tcp(packet, room);
	else if (passed.next == PROTO_UDP)
		verdict = read_udp(packet, room);
	else
		verdict = read_echo(packet, room, 128, 129);
	if (verdict || !(port_flags & FAST_PORT_PARTIAL))
		return verdict;
	__u64 addresses = 0;
#pragma unroll
	for (int word = 8; word < IPV6_BYTES; word += 4)
		addresses += WORD32(ip + word);
	return has_partial_checksum(packet, addresses, room) ? FAST_PUNT_PARTIAL_CHECKSUM : 0;
}

#endif
