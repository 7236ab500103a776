/* SPDX-License-Identifier: Apache-2.0
 *
 * What all XDP programs share: reading a frame safely.
 */
#ifndef STATEPLANE_H
#define STATEPLANE_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_SVLAN 0x88a8

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17

#define ETH_BYTES 14
#define IPV4_BYTES 20

#define force_inline static __attribute__((always_inline)) inline

/* A frame's first byte and the first one beyond it. */
struct frame {
	__u8 *data;
	__u8 *end;
};

force_inline struct frame frame_of(struct xdp_md *ctx)
{
	struct frame frame = {
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	return frame;
}

/* Fields in network order, wherever they lie: frames have no alignment. The
 * caller has shown that the bytes exist. */
force_inline __u16 be16(const __u8 *at)
{
	return (__u16)(at[0] << 8 | at[1]);
}

force_inline __u32 be32(const __u8 *at)
{
	return (__u32)at[0] << 24 | (__u32)at[1] << 16 | (__u32)at[2] << 8 | at[3];
}

/* Words of a frame as they lie there, in network order. Headers are aligned to 4 bytes
 * wherever it matters: drivers of such machines put two bytes in front of a frame. */
typedef __u16 __attribute__((may_alias)) word16;
typedef __u32 __attribute__((may_alias)) word32;
#define WORD16(at) (*(word16 *)(at))
#define WORD32(at) (*(word32 *)(at))

#endif
