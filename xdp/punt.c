/* SPDX-License-Identifier: Apache-2.0
 *
 * A network function's interface without the fast path: every packet of the function's takes the
 * way into its socket. It asks little of a kernel: no memory shared with a process, no helpers of
 * later ones than those of AF_XDP itself.
 *
 *   frame ── ARP request for a pool address that is not ours ▶ function (it answers)
 *     ├── not for our MAC, not IPv4, not TCP/UDP/ICMP, multicast ▶ kernel
 *     ├── to a local address that is not in the pool ───────▶ kernel
 *     └── else ─────────────────────────────────────────────▶ function
 */
#include "function.h"

/* The ports' hardware addresses as they lie in a frame, set before loading. */
const volatile __u64 stations[PORTS] = {};

force_inline int punt(struct xdp_md *ctx, __u32 port)
{
	__u32 key = port; /* the port itself stays a constant to the verifier */
	struct counters *counts = bpf_map_lookup_elem(&counters, &key);
	struct frame frame = frame_of(ctx);
	const __u8 *packet = frame.data + ETH_BYTES;

	if (!counts)
		return XDP_ABORTED;
	if (packet > frame.end)
		return to_kernel(counts);
	__u16 type = be16(frame.data + 12);
	if (type == ETHERTYPE_ARP)
		return arp(ctx, counts, port);
	__u64 destination = WORD32(frame.data) | (__u64)WORD16(frame.data + 4) << 32;
	if (type != ETHERTYPE_IPV4 || destination != stations[port] ||
	    packet + IPV4_BYTES > frame.end)
		return to_kernel(counts);
	__u8 protocol = packet[9];
	if (protocol != PROTO_TCP && protocol != PROTO_UDP && protocol != PROTO_ICMP)
		return to_kernel(counts);
	/* Multicast and the limited broadcast: 224.0.0.0 and above. */
	if (packet[16] >= 224 || (is_local(packet + 16) && !is_pool(packet + 16)))
		return to_kernel(counts);
	return to_function(ctx, counts, port, COUNT_FUNCTION);
}

SEC("xdp")
int punt_inside(struct xdp_md *ctx)
{
	return punt(ctx, 0);
}

SEC("xdp")
int punt_outside(struct xdp_md *ctx)
{
	return punt(ctx, 1);
}

char _license[] SEC("license") = "Apache-2.0";
