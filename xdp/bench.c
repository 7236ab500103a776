// SPDX-License-Identifier: Apache-2.0
//
// The two ends of the sequencer's benchmark. Requests are made under the kernel's
// live-frame test run, every run one frame; copies to the discard port (9, RFC 863) are
// counted and dropped at the far end. Both programs share the counters.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PORT_DISCARD 9

#define HEADERS 42 /* Ethernet, IPv4 without options, UDP */

// Frames sent, by one generator; frames counted, by whichever CPU receives. A cache
// line each.
struct bench_count {
	__u64 frames;
	__u64 unused[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct bench_count);
} bench_frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bench_out SEC(".maps");

// The UDP header of an option-less IPv4 packet, or NULL.
static __always_inline struct udphdr *udp_header(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(udp + 1) > end)
		return 0;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
		return 0;
	return udp;
}

// Requests for a sequencer: each is sent once a volley, so that none is a replay, and
// multicast; bench_collect counts the copies. They are alike but for tags and counter, so
// that the generator touches little memory: what it costs is not what is measured.
#define PACKET HEADERS
#define TAG (PACKET + 8)
#define INNER_TAG (PACKET + 72)
#define COUNTER (PACKET + 88)
#define ALIKE 160 /* bytes written anew: all that the way changes, and some more */
#define SENT_AT ALIKE
#define REQUESTS 8192
#define BUCKETS 8192
#define BUCKET_NS 8

struct bench_alike {
	__u64 words[ALIKE / 8];
};

struct bench_own {
	__u64 tag;
	__u64 inner_tag;
	__u64 counter;
	__u64 unused;
};

struct bench_volley {
	__u64 sent;    /* frames sent before this volley */
	__u64 counted; /* copies counted before it */
	__u32 count;   /* requests in it */
	__u32 copies;  /* of each that arrive */
	__u32 window;  /* copies under way at most */
	__u32 timed;   /* requests carry the time they were sent at */
	__u64 full;    /* runs that found the window full, in all volleys */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_alike);
} bench_template SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REQUESTS);
	__type(key, __u32);
	__type(value, struct bench_own);
} bench_requests SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_volley);
} bench_volleys SEC(".maps");

// How many copies took how long, by BUCKET_NS.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} bench_times SEC(".maps");

#define WORD(at) (*(__u64 *)(at))

SEC("xdp")
int bench_request(struct xdp_md *ctx)
{
	__u32 zero = 0, one = 1;
	struct bench_volley *volley = bpf_map_lookup_elem(&bench_volleys, &zero);
	struct bench_alike *alike = bpf_map_lookup_elem(&bench_template, &zero);
	struct bench_count *sent = bpf_map_lookup_elem(&bench_frames, &zero);
	struct bench_count *counted = bpf_map_lookup_elem(&bench_frames, &one);
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (!volley || !alike || !sent || !counted)
		return XDP_ABORTED;
	__u32 index = sent->frames - volley->sent;
	__u64 arrived = *(volatile __u64 *)&counted->frames - volley->counted;
	struct bench_own *own = bpf_map_lookup_elem(&bench_requests, &index);

	if (!own || index >= volley->count)
		return XDP_DROP;
	if ((__s64)((__u64)index * volley->copies - arrived) >= volley->window) {
		volley->full += 1;
		return XDP_DROP;
	}
	// A shorter frame is no request, and nothing on its way changes it.
	if (data + SENT_AT + 8 <= end) {
		for (int i = 0; i < ALIKE / 8; i++)
			WORD(data + 8 * i) = alike->words[i];
		WORD(data + TAG) = own->tag;
		WORD(data + INNER_TAG) = own->inner_tag;
		WORD(data + COUNTER) = own->counter;
		if (volley->timed)
			WORD(data + SENT_AT) = bpf_ktime_get_ns();
	}
	sent->frames += 1;
	return bpf_redirect_map(&bench_out, 0, 0);
}

SEC("xdp")
int bench_collect(struct xdp_md *ctx)
{
	__u32 zero = 0, one = 1;
	struct bench_volley *volley = bpf_map_lookup_elem(&bench_volleys, &zero);
	struct bench_count *counted = bpf_map_lookup_elem(&bench_frames, &one);
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = udp_header(ctx);

	if (!volley || !counted || !udp || udp->dest != bpf_htons(PORT_DISCARD))
		return XDP_PASS;
	__sync_fetch_and_add(&counted->frames, 1);
	if (volley->timed && data + SENT_AT + 8 <= end) {
		__u64 took = (bpf_ktime_get_ns() - WORD(data + SENT_AT)) / BUCKET_NS;
		__u32 bucket = took < BUCKETS ? took : BUCKETS - 1;
		__u64 *times = bpf_map_lookup_elem(&bench_times, &bucket);

		if (times)
			__sync_fetch_and_add(times, 1);
	}
	return XDP_DROP;
}

// In the place of a sequencer: what the generator alone can do.
SEC("xdp")
int bench_drop(struct xdp_md *ctx)
{
	__u32 one = 1;
	struct bench_count *counted = bpf_map_lookup_elem(&bench_frames, &one);

	if (!counted || !udp_header(ctx))
		return XDP_PASS;
	counted->frames += 1;
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
