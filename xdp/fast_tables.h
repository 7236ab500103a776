/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast path's tables as maps, and how they are read while their writer is at work.
 * The writer shares their memory: no change is a system call.
 */
#ifndef FAST_TABLES_H
#define FAST_TABLES_H

#include "fastpath.h"
#include "stateplane.h"

/* How many of each there are, less one: powers of two, set before loading, so that they are
 * constants to the verifier. */
const volatile __u32 flows4_mask = 7;
const volatile __u32 flows6_mask = 7;
const volatile __u32 routes4_mask = 0;
const volatile __u32 routes6_mask = 0;

/* A bucket, and a set of routes, is one value: one look-up for all of it. */
struct bucket4 {
	struct fast_slot4 slots[FAST_BUCKET_SLOTS];
};

struct bucket6 {
	struct fast_slot6 slots[FAST_BUCKET_SLOTS];
};

struct set4 {
	struct fast_route4 routes[FAST_ROUTE_WAYS];
};

struct set6 {
	struct fast_route6 routes[FAST_ROUTE_WAYS];
};

#define SHARED(name, of)                                                                           \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, struct of);                                                          \
	} name SEC(".maps")

SHARED(flows4, bucket4);
SHARED(flows6, bucket6);
SHARED(routes4, set4);
SHARED(routes6, set6);
SHARED(hops, fast_hop);
SHARED(leases, fast_lease);
SHARED(meters, fast_meter);
SHARED(tunnels, fast_tunnel);
SHARED(settings, fast_settings);

/* What one load gives, of memory that changes. */
#define TAKE(word) (*(const volatile __typeof__(word) *)&(word))

/* The same for a word that a structure describes in parts, which the compiler would otherwise
 * load part by part. */
force_inline __u64 take_word(const void *at)
{
	return *(const volatile __u64 *)at;
}

/* What was read before stays before what is read after: other processors see to it only
 * where they do not keep the order anyway. */
#ifdef LOADS_IN_ORDER
#define READ_BARRIER() asm volatile("" ::: "memory")
#else
#define READ_BARRIER()                                                                             \
	do {                                                                                       \
		__u64 full = 0;                                                                    \
		__sync_fetch_and_add(&full, 1);                                                    \
	} while (0)
#endif

/* What an entry says, read whole. */
struct action {
	__u64 until;
	__u64 hash;
	__u16 source_port;
	__u16 destination_port;
	__u16 flags;
	__u16 hop;
	__u32 epoch;
	__u16 lease;
	__u8 tunnel;
	__u8 tcp_events;
	__u32 source[4];
	__u32 destination[4];
	__u64 *bytes;
	struct fast_seen *seen;
};

/* The hash, beginning with 0; tag last. */
force_inline __u64 hash_word(const struct fast_settings *with, __u64 hash, __u64 word)
{
	return (hash ^ hash >> 32 ^ word ^ with->add[0]) * with->multiply[0];
}

force_inline __u64 hash_tag(const struct fast_settings *with, __u64 hash, __u64 tag)
{
	hash ^= tag ^ with->add[1];
	hash = (hash ^ hash >> 32) * with->multiply[1];
	return hash ^ hash >> 32;
}

/* Where a key's second choice of slot comes from. */
force_inline __u64 second_choice(const struct fast_settings *with, __u64 hash)
{
	return hash * with->multiply[0] >> 32;
}

force_inline void unpack(struct action *action, __u64 rewrite, __u64 guard)
{
	action->source_port = rewrite;
	action->destination_port = rewrite >> 16;
	action->flags = rewrite >> 32;
	action->hop = rewrite >> 48;
	action->epoch = guard;
	action->lease = guard >> 32;
	action->tunnel = guard >> 48;
	action->tcp_events = guard >> 56;
}

/* Whether the state from before tells that what was read meanwhile is whole. */
force_inline int is_whole(__u64 before, __u64 after)
{
	return !((before ^ after) & FAST_STATE_SEQUENCE) && !(before & 1);
}

force_inline int take4(struct fast_slot4 *slot, __u64 addresses, __u64 tag, struct action *action)
{
	__u64 state = TAKE(slot->state);
	READ_BARRIER();
	/* Between the search and the state another flow may have got the slot. */
	int same = TAKE(slot->addresses) == addresses && TAKE(slot->tag) == tag;
	unpack(action, take_word(&slot->rewrite), take_word(&slot->guard));
	__u64 ends = take_word(&slot->source);
	READ_BARRIER();
	if (!is_whole(state, TAKE(slot->state)))
		return FAST_PUNT_BUSY;
	action->source[0] = ends;
	action->destination[0] = ends >> 32;
	action->until = state & ~(__u64)FAST_STATE_SEQUENCE;
	action->bytes = &slot->bytes;
	action->seen = &slot->seen;
	return same ? 0 : FAST_PUNT_UNKNOWN;
}

/* The entry of a masked key: the slot that its hash likes best, that one's neighbours, then
 * the same for its second choice. */
force_inline int find4(const struct fast_settings *with, __u64 addresses, __u64 tag,
		       struct action *action)
{
	__u64 hash = hash_tag(with, hash_word(with, 0, addresses), tag);
	__u32 in_use = flows4_mask & TAKE(with->in_use[0]);

	action->hash = hash;
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 first = (choice ? second_choice(with, hash) : hash) & in_use;
		__u32 index = first / FAST_BUCKET_SLOTS;
		struct bucket4 *bucket = bpf_map_lookup_elem(&flows4, &index);
		if (!bucket)
			return FAST_PUNT_UNKNOWN;
#pragma unroll
		for (int n = 0; n < FAST_BUCKET_SLOTS; n++) {
			struct fast_slot4 *slot = &bucket->slots[(first ^ n) % FAST_BUCKET_SLOTS];
			if (slot->addresses == addresses && slot->tag == tag)
				return take4(slot, addresses, tag, action);
		}
	}
	return FAST_PUNT_UNKNOWN;
}

force_inline int matches6(const struct fast_slot6 *slot, const __u64 *addresses, __u64 tag)
{
	return TAKE(slot->tag) == tag && TAKE(slot->addresses[0]) == addresses[0] &&
	       TAKE(slot->addresses[1]) == addresses[1] &&
	       TAKE(slot->addresses[2]) == addresses[2] && TAKE(slot->addresses[3]) == addresses[3];
}

force_inline int take6(struct fast_slot6 *slot, const __u64 *addresses, __u64 tag,
		       struct action *action)
{
	__u64 state = TAKE(slot->state);
	READ_BARRIER();
	int same = matches6(slot, addresses, tag);
	unpack(action, take_word(&slot->rewrite), take_word(&slot->guard));
#pragma unroll
	for (int n = 0; n < 2; n++) {
		__u64 source = TAKE(slot->source[n]), destination = TAKE(slot->destination[n]);
		action->source[2 * n] = source;
		action->source[2 * n + 1] = source >> 32;
		action->destination[2 * n] = destination;
		action->destination[2 * n + 1] = destination >> 32;
	}
	READ_BARRIER();
	if (!is_whole(state, TAKE(slot->state)))
		return FAST_PUNT_BUSY;
	action->until = state & ~(__u64)FAST_STATE_SEQUENCE;
	action->bytes = &slot->bytes;
	action->seen = &slot->seen;
	return same ? 0 : FAST_PUNT_UNKNOWN;
}

force_inline int find6(const struct fast_settings *with, const __u64 *addresses, __u64 tag,
		       struct action *action)
{
	__u64 hash = 0;
	__u32 in_use = flows6_mask & TAKE(with->in_use[1]);

#pragma unroll
	for (int n = 0; n < 4; n++)
		hash = hash_word(with, hash, addresses[n]);
	hash = hash_tag(with, hash, tag);
	action->hash = hash;
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 first = (choice ? second_choice(with, hash) : hash) & in_use;
		__u32 index = first / FAST_BUCKET_SLOTS;
		struct bucket6 *bucket = bpf_map_lookup_elem(&flows6, &index);
		if (!bucket)
			return FAST_PUNT_UNKNOWN;
#pragma unroll
		for (int n = 0; n < FAST_BUCKET_SLOTS; n++) {
			struct fast_slot6 *slot = &bucket->slots[(first ^ n) % FAST_BUCKET_SLOTS];
			if (matches6(slot, addresses, tag))
				return take6(slot, addresses, tag, action);
		}
	}
	return FAST_PUNT_UNKNOWN;
}

/* Whether a lease is in this life and not over. Its end is read first: who sees that of the
 * next owner sees then that the former one's epoch is gone. */
force_inline int is_held(__u32 index, __u32 epoch, __u64 now)
{
	struct fast_lease *lease = bpf_map_lookup_elem(&leases, &index);

	if (!lease || !epoch)
		return 0;
	__u64 until = TAKE(lease->until);
	READ_BARRIER();
	return now < until && TAKE(lease->epoch) == epoch;
}

/* Takes `length` bytes from what the entry's meter may let pass, or says that nothing is left. Where
 * a second port would be lies the meter's number: from here on the entry has one port for
 * both ends. Whatever number of processors serve it, no more passes than the limit; a sum that is
 * too high for a moment only sends a packet to the function. */
force_inline int charge(struct action *action, __u64 length, struct fast_meter **which)
{
	__u32 index = action->destination_port |
		      (__u32)(action->flags >> FAST_FLAG_METER_SHIFT) << 16;
	struct fast_meter *meter = bpf_map_lookup_elem(&meters, &index);

	action->destination_port = action->source_port;
	if (!meter)
		return FAST_PUNT_METER;
	if (__sync_fetch_and_add(&meter->used, length) + length > TAKE(meter->limit)) {
		__sync_fetch_and_add(&meter->used, -length);
		return FAST_PUNT_METER;
	}
	*which = meter;
	return 0;
}

/* The next hop to a destination, by the routes of the port it leaves by. */
force_inline int route4(const struct fast_settings *with, __u32 destination, __u8 out, __u32 *hop)
{
	__u64 hash = hash_tag(with, hash_word(with, 0, destination), out);
	__u32 index = hash & routes4_mask;
	struct set4 *set = bpf_map_lookup_elem(&routes4, &index);
	/* As the record lies in memory, without the next hop. */
	__u64 wanted = destination | (__u64)out << 48 | (__u64)FAST_STATE_VALID << 56;

	if (!set)
		return FAST_PUNT_ROUTE;
#pragma unroll
	for (int way = 0; way < FAST_ROUTE_WAYS; way++) {
		__u64 route = take_word(&set->routes[way]);
		/* Of the state, the two low bits count. */
		if ((route & 0x03ff0000ffffffffULL) == wanted) {
			*hop = route >> 32 & 0xffff;
			return 0;
		}
	}
	return FAST_PUNT_ROUTE;
}

force_inline int route6(const struct fast_settings *with, const __u64 *destination, __u8 out,
			__u32 *hop)
{
	__u64 hash = hash_word(with, hash_word(with, 0, destination[0]), destination[1]);
	__u32 index = hash_tag(with, hash, out) & routes6_mask;
	struct set6 *set = bpf_map_lookup_elem(&routes6, &index);
	int missing = FAST_PUNT_ROUTE;

	if (!set)
		return missing;
#pragma unroll
	for (int way = 0; way < FAST_ROUTE_WAYS; way++) {
		struct fast_route6 *route = &set->routes[way];
		__u64 state = TAKE(route->state);
		READ_BARRIER();
		__u64 low = TAKE(route->destination[0]), high = TAKE(route->destination[1]);
		__u64 tail = take_word(&route->hop);
		READ_BARRIER();
		if ((state & FAST_STATE_BUSY) || TAKE(route->state) != state) {
			missing = FAST_PUNT_BUSY;
			continue;
		}
		if ((state & FAST_STATE_VALID) && low == destination[0] && high == destination[1] &&
		    (__u8)(tail >> 16) == out) {
			*hop = tail & 0xffff;
			return 0;
		}
	}
	return missing;
}

struct next_hop {
	__u32 macs[3];
	__u16 device;
	__u16 mtu;
};

force_inline int take_hop(__u32 index, struct next_hop *next)
{
	struct fast_hop *hop = bpf_map_lookup_elem(&hops, &index);

	if (!hop)
		return FAST_PUNT_HOP;
	__u64 state = TAKE(hop->state);
	READ_BARRIER();
	__u64 first = take_word(&hop->macs[0]), second = take_word(&hop->macs[8]);
	READ_BARRIER();
	if ((state & FAST_STATE_BUSY) || TAKE(hop->state) != state)
		return FAST_PUNT_BUSY;
	next->macs[0] = first;
	next->macs[1] = first >> 32;
	next->macs[2] = second;
	next->device = second >> 32;
	next->mtu = second >> 48;
	return state & FAST_STATE_VALID ? 0 : FAST_PUNT_HOP;
}

#endif
