/* SPDX-License-Identifier: Apache-2.0
 *
 * Internet checksums, updated incrementally (RFC 1624). All words are as they lie in
 * memory: a sum of swapped words is the swapped sum (RFC 1071, section 2.B).
 */
#ifndef STATEPLANE_CHECKSUM_H
#define STATEPLANE_CHECKSUM_H

#include "stateplane.h"

/* What a sum grows by when a 16-bit word changes: at most 2 * 0xffff. */
force_inline __u32 changed16(__u16 before, __u16 after)
{
	return (__u16)~before + after;
}

/* The same for a field of two words: at most 4 * 0xffff. */
force_inline __u32 changed32(__u32 before, __u32 after)
{
	__u32 not_before = ~before;
	return (not_before & 0xffff) + (not_before >> 16) + (after & 0xffff) + (after >> 16);
}

/* A sum of fewer than 65,536 words, carries added in. */
force_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* A sum of 32-bit words, fewer than 2^32. */
force_inline __u16 folded64(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return folded((sum & 0xffff) + (sum >> 16));
}

/* The checksum of what had the checksum `sum` and changed by `change`. */
force_inline __u16 settled(__u16 sum, __u32 change)
{
	return ~folded((__u16)~sum + change);
}

/* The same in a UDP header, where zero says "not computed" (RFC 768). */
force_inline __u16 settled_udp(__u16 sum, __u32 change)
{
	__u16 updated = settled(sum, change);
	return updated ? updated : 0xffff;
}

#endif
