/* SPDX-License-Identifier: Apache-2.0
 *
 * Takes the packets a network function must see past the kernel's stack, into
 * the AF_XDP socket of the queue they arrived on; leaves the rest alone.
 *
 *   frame ── not for our MAC ───────────────────────────▶ kernel
 *     ├── ARP request for a pool address that is not ours ▶ function (it answers)
 *     ├── IPv4 TCP/UDP/ICMP to a pool address ──────────▶ function
 *     ├── IPv4 TCP/UDP/ICMP to a local address ─────────▶ kernel
 *     ├── other unicast IPv4 TCP/UDP/ICMP ──────────────▶ function
 *     └── anything else ────────────────────────────────▶ kernel
 *
 * A pool address goes to the function even where it is also the interface's own:
 * then the function shares the one public address with the host's kernel, which
 * still answers ARP for it.
 */
#include "stateplane.h"

enum { COUNT_FUNCTION, COUNT_KERNEL, COUNT_ARP, COUNT_NO_SOCKET, COUNTERS };

struct prefix {
	__u32 length;
	__u8 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* The interface's hardware address. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} station SEC(".maps");

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

force_inline int is_local(const __u8 *address)
{
	__u32 key;
	__builtin_memcpy(&key, address, 4);
	return bpf_map_lookup_elem(&locals, &key) != NULL;
}

force_inline int is_pool(const __u8 *address)
{
	struct prefix key = { .length = 32 };
	__builtin_memcpy(key.address, address, 4);
	return bpf_map_lookup_elem(&pool, &key) != NULL;
}

force_inline int to_kernel(void)
{
	count(COUNT_KERNEL);
	return XDP_PASS;
}

force_inline int to_function(struct xdp_md *ctx, __u32 counter)
{
	/* Where the queue has no socket the frame belongs to nobody else either: the
	 * kernel would answer it with a reset. */
	long action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
	count(action == XDP_REDIRECT ? counter : COUNT_NO_SOCKET);
	return action;
}

/* Whether the frame is addressed to exactly this interface. */
force_inline int for_us(const __u8 *destination)
{
	__u32 zero = 0;
	__u64 *mac = bpf_map_lookup_elem(&station, &zero);
	__u64 is = (__u64)be16(destination) << 32 | be32(destination + 2);
	return mac && *mac == is;
}

/* A request: Ethernet and IPv4 addresses, operation 1; the target's protocol
 * address is the last field (RFC 826). */
force_inline int arp(struct xdp_md *ctx, const __u8 *packet, const __u8 *end)
{
	if (packet + 28 > end)
		return to_kernel();
	if (be32(packet) != 0x00010800 || be32(packet + 4) != 0x06040001)
		return to_kernel();
	const __u8 *target = packet + 24;
	if (is_pool(target) && !is_local(target))
		return to_function(ctx, COUNT_ARP);
	return to_kernel();
}

SEC("xdp")
int punt(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);
	const __u8 *packet = frame.data + ETH_BYTES;
	if (packet > frame.end)
		return to_kernel();
	__u16 type = be16(frame.data + 12);
	if (type == ETHERTYPE_ARP)
		return arp(ctx, packet, frame.end);
	if (type != ETHERTYPE_IPV4 || !for_us(frame.data))
		return to_kernel();

	if (packet + IPV4_BYTES > frame.end)
		return to_kernel();
	__u8 protocol = packet[9];
	if (protocol != PROTO_TCP && protocol != PROTO_UDP && protocol != PROTO_ICMP)
		return to_kernel();
	const __u8 *destination = packet + 16;
	/* Multicast and the limited broadcast: 224.0.0.0 and above. */
	if (destination[0] >= 224)
		return to_kernel();
	if (!is_pool(destination) && is_local(destination))
		return to_kernel();
	return to_function(ctx, COUNT_FUNCTION);
}

char _license[] SEC("license") = "Apache-2.0";
