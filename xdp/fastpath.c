/* SPDX-License-Identifier: Apache-2.0
 *
 * A network function's interface: forwards the packets of flows whose fate is decided, takes the
 * others past the kernel's stack to the function, into the AF_XDP socket of the queue they
 * arrived on, and leaves the rest alone.
 *
 *   frame ── ARP request for a pool address that is not ours ▶ function (it answers)
 *     ├── not for our MAC, not TCP/UDP/ICMP, multicast ─────▶ kernel
 *     ├── its flow has an entry that holds ─────────────────▶ rewritten, out of a device
 *     ├── to a pool address ────────────────────────────────▶ function
 *     ├── to a local address ───────────────────────────────▶ kernel
 *     └── else ─────────────────────────────────────────────▶ function
 *
 * Verdicts are those of the reference, crates/flow/src/fast/interpret.rs, check by check.
 */
#include "fast_packet.h"
#include "fast_rewrite.h"
#include "fast_tables.h"
#include "function.h"

/* Whether two of the kernel's ticks are no longer than the clock may be behind (10 ms). */
const volatile __u8 short_ticks = 0;

/* What next hops call devices. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* The circumstances of a frame. */
struct arrival {
	struct fast_settings *settings;
	struct fast_port *port;
	struct counters *counters;
	__u32 number;
	__u64 now;
	__u32 device; /* where it leaves */
};

/* Which reserved destination the packet has, if any; keys may leave destinations out. */
force_inline int reserved4(const struct arrival *arrival, __u32 destination)
{
	for (int n = 0; n < FAST_RESERVED4; n++) {
		struct fast_reserved4 *entry = &arrival->settings->reserved4[n];
		__u64 what = take_word(&entry->what), prefix = take_word(&entry->address);
		if (!(what >> 32 >> arrival->number & 1))
			continue;
		if ((destination & (__u32)(prefix >> 32)) != (__u32)prefix)
			continue;
		if ((__u32)what == FAST_RESERVED_KERNEL)
			return KERNEL;
		if ((__u32)what == FAST_RESERVED_FUNCTION)
			return FAST_PUNT_RESERVED;
	}
	return 0;
}

force_inline int reserved6(const struct arrival *arrival, const __u64 *destination)
{
	for (int n = 0; n < FAST_RESERVED6; n++) {
		struct fast_reserved6 *entry = &arrival->settings->reserved6[n];
		__u64 what = take_word(&entry->what);
		if (!(what >> 32 >> arrival->number & 1))
			continue;
		if ((destination[0] & TAKE(entry->mask[0])) != TAKE(entry->address[0]) ||
		    (destination[1] & TAKE(entry->mask[1])) != TAKE(entry->address[1]))
			continue;
		if ((__u32)what == FAST_RESERVED_KERNEL)
			return KERNEL;
		if ((__u32)what == FAST_RESERVED_FUNCTION)
			return FAST_PUNT_RESERVED;
	}
	return 0;
}

/* Whether the entry holds for this packet at this moment. */
force_inline int holds(const struct arrival *arrival, const struct packet *packet,
		       const struct action *action)
{
	if (arrival->now >= action->until)
		return FAST_PUNT_EXPIRED;
	if (action->lease && !is_held(action->lease, action->epoch, arrival->now))
		return FAST_PUNT_LEASE;
	if (packet->tcp_flags & action->tcp_events)
		return FAST_PUNT_TCP_EVENT;
	if (packet->ttl <= 1 || packet->ttl <= ttl_of(action))
		return FAST_PUNT_TTL;
	return 0;
}

/* The tag of the packet's key. */
force_inline __u64 tag_of(const struct arrival *arrival, const struct packet *packet)
{
	__u32 meta = packet->vlans | arrival->number << FAST_META_PORT_SHIFT |
		     (__u32)packet->kind << FAST_META_KIND_SHIFT;
	__u64 tag = packet->source_port | (__u64)packet->destination_port << 16 |
		    (__u64)meta << 32;
	return tag & arrival->port->mask_tag;
}

/* The entry of an IPv4 packet and where it leads. */
force_inline int decide4(const struct arrival *arrival, const struct packet *packet,
			 struct action *action, __u32 *hop)
{
	__u32 source = WORD32(packet->l3 + 12), destination = WORD32(packet->l3 + 16);
	__u64 addresses = (source | (__u64)destination << 32) & arrival->port->mask4;
	int verdict = find4(arrival->settings, addresses, tag_of(arrival, packet), action);

	if (!verdict)
		verdict = holds(arrival, packet, action);
	if (verdict)
		return verdict;
	*hop = action->hop;
	if (action->hop < FAST_HOP_BY_DESTINATION)
		return arrival->port->flags & FAST_PORT_RESERVED ? reserved4(arrival, destination)
								  : 0;
	if (action->flags & FAST_FLAG_DESTINATION_ADDR)
		destination = action->destination[0];
	return route4(arrival->settings, destination, action->hop, hop);
}

force_inline int decide6(const struct arrival *arrival, const struct packet *packet,
			 struct action *action, __u32 *hop)
{
	__u64 addresses[4], destination[2];
	const __u8 *ip = packet->l3;

#pragma unroll
	for (int n = 0; n < 4; n++)
		addresses[n] = WORD32(ip + 8 + 8 * n) | (__u64)WORD32(ip + 12 + 8 * n) << 32;
	destination[0] = addresses[2];
	destination[1] = addresses[3];
	addresses[0] &= arrival->port->mask6_source;
	addresses[1] &= arrival->port->mask6_source;
	addresses[2] &= arrival->port->mask6_destination;
	addresses[3] &= arrival->port->mask6_destination;
	int verdict = find6(arrival->settings, addresses, tag_of(arrival, packet), action);
	if (!verdict)
		verdict = holds(arrival, packet, action);
	if (verdict)
		return verdict;
	*hop = action->hop;
	if (action->hop < FAST_HOP_BY_DESTINATION)
		return arrival->port->flags & FAST_PORT_RESERVED ? reserved6(arrival, destination)
								  : 0;
	if (action->flags & FAST_FLAG_DESTINATION_ADDR) {
		destination[0] = action->destination[0] | (__u64)action->destination[1] << 32;
		destination[1] = action->destination[2] | (__u64)action->destination[3] << 32;
	}
	return route6(arrival->settings, destination, action->hop, hop);
}

/* The time, behind by two ticks at most: one that the coarse clock has not been told of when a
 * tick is first seen, and the one that lasts until the next. Asking the coarse clock for each packet
 * would take a fifth of the whole program's time. */
force_inline __u64 coarse_time(struct counters *counters)
{
	if (!short_ticks)
		return bpf_ktime_get_coarse_ns();
	__u64 tick = bpf_jiffies64();
	if (counters->tick != tick) {
		counters->now = bpf_ktime_get_coarse_ns();
		counters->tick = tick;
	}
	return counters->now;
}

/* Notes that a packet of `length` bytes passed. Counts of a flow whose packets come by several
 * processors may miss some: exact ones are not worth a locked instruction. */
force_inline void note(const struct arrival *arrival, const struct action *action, __u64 length)
{
	__u64 packets = (__u32)(TAKE(action->seen->packets) + 1);
	__u64 last = arrival->now >> FAST_SEEN_SHIFT & 0xffffffff;

	*(volatile __u64 *)action->bytes = TAKE(*action->bytes) + length;
	*(volatile __u64 *)action->seen = packets | last << 32;
	arrival->counters->of[FAST_COUNT_HITS] += 1;
	arrival->counters->of[FAST_COUNT_BYTES] += length;
}

/* Rewrites, encapsulates, addresses, counts and sends the packet, or says why not: then it is
 * as it was. */
force_inline int leave(struct xdp_md *ctx, struct arrival *arrival, struct packet *packet,
		       struct action *action, __u32 hop, int is_ipv4)
{
	struct next_hop next;
	struct outer *outer = NULL;
	struct fast_meter *meter = NULL;
	struct frame frame = frame_of(ctx);
	__u64 length = frame.end - frame.data;
	__u32 header = 0, zero = 0;
	int verdict = take_hop(hop, &next);

	if (verdict)
		return verdict;
	if (action->tunnel) {
		outer = bpf_map_lookup_elem(&outers, &zero);
		if (!outer)
			return FAST_PUNT_TUNNEL;
		verdict = take_tunnel(action->tunnel, packet, action->hash, outer);
		if (verdict)
			return verdict;
		header = outer->length;
	}
	if (header + packet->length > next.mtu)
		return FAST_PUNT_MTU;
	if (action->flags & FAST_FLAG_METER) {
		verdict = charge(action, length, &meter);
		if (verdict)
			return verdict;
	}
	if (outer)
		verdict = push(ctx, outer, packet);
	if (!verdict)
		verdict = is_ipv4 ? rewrite4(packet, action) : rewrite6(packet, action);
	frame = frame_of(ctx);
	/* It was as long as that when it was read. */
	if (verdict || frame.data + ETH_BYTES > frame.end) {
		if (meter)
			__sync_fetch_and_add(&meter->used, -length);
		return verdict;
	}
	WORD32(frame.data) = next.macs[0];
	WORD32(frame.data + 4) = next.macs[1];
	WORD32(frame.data + 8) = next.macs[2];
	note(arrival, action, length);
	if (meter) {
		__sync_fetch_and_add(&meter->packets[arrival->number & 1], 1);
		__sync_fetch_and_add(&meter->bytes[arrival->number & 1], length);
	}
	arrival->device = next.device;
	return 0;
}

/* `is_ipv4` is a constant of each call. */
force_inline int forward(struct xdp_md *ctx, struct arrival *arrival, struct packet *packet,
			 int is_ipv4)
{
	struct action action;
	__u32 hop = 0;
	__u8 flags = arrival->port->flags;
	int verdict = is_ipv4 ? read_ipv4(ctx, packet, flags) : read_ipv6(ctx, packet, flags);

	if (verdict == KERNEL)
		return KERNEL;
	if (TAKE(arrival->settings->enabled) != 1)
		return FAST_PUNT_DISABLED;
	if (verdict)
		return verdict;
	arrival->now = coarse_time(arrival->counters);
	verdict = is_ipv4 ? decide4(arrival, packet, &action, &hop)
			  : decide6(arrival, packet, &action, &hop);
	return verdict ? verdict : leave(ctx, arrival, packet, &action, hop, is_ipv4);
}

/* An IPv4 packet that the function shall see is the kernel's nevertheless if it is for one of
 * this machine's addresses that the function does not own. */
force_inline int is_for_machine(struct xdp_md *ctx, __u32 l3_at)
{
	struct frame frame = frame_of(ctx);
	const __u8 *ip = frame.data + (l3_at & 0x1f);

	if (ip + IPV4_BYTES > frame.end)
		return 0;
	return !is_pool(ip + 16) && is_local(ip + 16);
}

force_inline int send(const struct arrival *arrival)
{
	long action = bpf_redirect_map(&devices, arrival->device, XDP_DROP);

	/* The writer names devices that are there. */
	if (action != XDP_REDIRECT)
		arrival->counters->of[COUNT_NO_DEVICE] += 1;
	return action;
}

force_inline int serve(struct xdp_md *ctx, __u32 number)
{
	__u32 zero = 0;
	struct arrival arrival = {
		.settings = bpf_map_lookup_elem(&settings, &zero),
		.counters = bpf_map_lookup_elem(&counters, &number),
		.number = number,
	};
	struct frame frame = frame_of(ctx);
	struct packet packet = {};

	if (!arrival.settings || !arrival.counters)
		return XDP_ABORTED;
	arrival.port = &arrival.settings->ports[number];
	if (read_link(frame, &packet))
		return to_kernel(arrival.counters);
	if (packet.l3_at == ETH_BYTES && packet.type == ETHERTYPE_ARP)
		return arp(ctx, arrival.counters, number);
	/* Hardware address and flags are one word. */
	__u64 port = take_word(arrival.port);
	__u64 destination = WORD32(frame.data) | (__u64)WORD16(frame.data + 4) << 32;
	__u8 flags = port >> 48;
	if ((port & 0xffffffffffffULL) != destination)
		return to_kernel(arrival.counters);
	if (packet.l3_at != ETH_BYTES && !(flags & FAST_PORT_TAGGED))
		return to_kernel(arrival.counters);
	int verdict = KERNEL;
	if (packet.type == ETHERTYPE_IPV4 && (flags & FAST_PORT_IPV4)) {
		verdict = forward(ctx, &arrival, &packet, 1);
		if (verdict > 0 && is_for_machine(ctx, packet.l3_at))
			verdict = KERNEL;
	} else if (packet.type == ETHERTYPE_IPV6 && (flags & FAST_PORT_IPV6)) {
		verdict = forward(ctx, &arrival, &packet, 0);
	}
	if (!verdict)
		return send(&arrival);
	if (verdict == KERNEL)
		return to_kernel(arrival.counters);
	/* The compiler knows that it is one; the verifier wants to see it. */
	__u32 reason = verdict;
	asm volatile("" : "+r"(reason));
	if (reason < FAST_COUNTERS)
		arrival.counters->of[reason] += 1;
	return to_function(ctx, arrival.counters, number, COUNT_FUNCTION);
}

/* The port is a constant of its program: no look-up tells it. */
SEC("xdp")
int fastpath_inside(struct xdp_md *ctx)
{
	return serve(ctx, 0);
}

SEC("xdp")
int fastpath_outside(struct xdp_md *ctx)
{
	return serve(ctx, 1);
}

char _license[] SEC("license") = "Apache-2.0";
