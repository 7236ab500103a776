/* SPDX-License-Identifier: Apache-2.0
 *
 * A network function's packets: which they are, and how they pass the kernel's stack, into the
 * AF_XDP socket of the queue they arrived on.
 *
 * A pool address goes to the function even where it is also the interface's own: then the
 * function shares the one public address with the host's kernel, which still answers ARP for it.
 */
#ifndef FUNCTION_H
#define FUNCTION_H

#include "fastpath.h"
#include "stateplane.h"

/* The ports of a function that an object has programs for. */
#define PORTS 2
/* Sockets of one port. */
#define QUEUES 64

/* Counters that follow those of the fast path's reference. */
enum {
	COUNT_FUNCTION = FAST_COUNTERS,
	COUNT_KERNEL,
	COUNT_ARP,
	COUNT_NO_SOCKET,
	COUNT_NO_DEVICE,
	COUNTERS
};

struct counters {
	__u64 of[COUNTERS];
	__u64 tick; /* of the kernel's, and the time when it was first seen */
	__u64 now;
};

struct prefix {
	__u32 length;
	__u8 address[4];
};

/* By port, then queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, PORTS * QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Addresses of this machine, in network order. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u8);
} locals SEC(".maps");

/* Addresses the function owns. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} pool SEC(".maps");

/* Of each port. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

force_inline int is_local(const __u8 *address)
{
	__u32 key = WORD32(address);
	return bpf_map_lookup_elem(&locals, &key) != NULL;
}

force_inline int is_pool(const __u8 *address)
{
	struct prefix key = { .length = 32 };
	__builtin_memcpy(key.address, address, 4);
	return bpf_map_lookup_elem(&pool, &key) != NULL;
}

force_inline int to_kernel(struct counters *counters)
{
	counters->of[COUNT_KERNEL] += 1;
	return XDP_PASS;
}

force_inline int to_function(struct xdp_md *ctx, struct counters *counters, __u32 port,
			     __u32 counter)
{
	__u32 queue = ctx->rx_queue_index;
	long action = XDP_DROP;

	/* Where the queue has no socket the frame belongs to nobody else either: the
	 * kernel would answer it with a reset. */
	if (queue < QUEUES)
		action = bpf_redirect_map(&sockets, port * QUEUES + queue, XDP_DROP);
	counters->of[action == XDP_REDIRECT ? counter : COUNT_NO_SOCKET] += 1;
	return action;
}

/* A request: Ethernet and IPv4 addresses, operation 1; the target's protocol
 * address is the last field (RFC 826). */
force_inline int arp(struct xdp_md *ctx, struct counters *counters, __u32 port)
{
	struct frame frame = frame_of(ctx);
	const __u8 *packet = frame.data + ETH_BYTES;

	if (packet + 28 > frame.end)
		return to_kernel(counters);
	if (be32(packet) != 0x00010800 || be32(packet + 4) != 0x06040001)
		return to_kernel(counters);
	const __u8 *target = packet + 24;
	if (is_pool(target) && !is_local(target))
		return to_function(ctx, counters, port, COUNT_ARP);
	return to_kernel(counters);
}

#endif
