/* SPDX-License-Identifier: Apache-2.0
 *
 * SipHash-2-4 (Aumasson and Bernstein, 2012), word by word: callers know their lengths, so
 * nothing is looped over and a constant beginning can be absorbed beforehand.
 */
#ifndef SIPHASH_H
#define SIPHASH_H

#include "stateplane.h"

/* The state after the key, and perhaps some words, were absorbed. */
struct sip {
	__u64 v0, v1, v2, v3;
};

#define SIP_ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))

force_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v2 += s->v3;
	s->v1 = SIP_ROTATE(s->v1, 13);
	s->v3 = SIP_ROTATE(s->v3, 16);
	s->v1 ^= s->v0;
	s->v3 ^= s->v2;
	s->v0 = SIP_ROTATE(s->v0, 32);
	s->v2 += s->v1;
	s->v0 += s->v3;
	s->v1 = SIP_ROTATE(s->v1, 17);
	s->v3 = SIP_ROTATE(s->v3, 21);
	s->v1 ^= s->v2;
	s->v3 ^= s->v0;
	s->v2 = SIP_ROTATE(s->v2, 32);
}

force_inline void sip_word(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	sip_round(s);
	s->v0 ^= word;
}

/* The tag of `length` bytes, the last (length mod 8) of which are `rest`. */
force_inline __u64 sip_finish(struct sip *s, __u64 rest, __u64 length)
{
	sip_word(s, rest | length << 56);
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

#endif
