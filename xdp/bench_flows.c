/* SPDX-License-Identifier: Apache-2.0
 *
 * The two ends of the packet benchmarks.
 *
 *   flows_generate ──▶ interface ··· device under test ··· interface ──▶ flows_count
 *
 * flows_generate runs under the kernel's live-frame test run: every run is one frame.
 * Frames are recycled with whatever the device did to them, so the headers are written
 * anew each time. A flow is an inside address and a source port; flows take turns, in no
 * order that a processor could foresee.
 * While `window` frames are under way it drops instead: what is measured is work, not
 * loss.
 *
 * flows_count counts and drops UDP to the discard port (9, RFC 863) if the frame is what
 * the device had to make of it: addressed to this station, from the expected addresses
 * to the expected one, both checksums right. What is not is counted as wrong. The rest
 * passes, so that sockets work beside it.
 *
 * The payload is the same in all frames, but for the stamp that some carry in its first bytes: the
 * time of sending, or the number of the flow. So checksums need the headers alone. Of numbered
 * frames the sink also notes, flow by flow, when they came and from where.
 *
 * A generator that is kept from running sends nothing, which is not the device's silence. Numbered
 * frames say for how long it was, all in all, and the sink takes that off what it did not hear.
 */
#include "stateplane.h"

#define HEADERS 42 /* Ethernet, IPv4 without options, UDP */
#define STAMP_BYTES 8
#define STAMP_TIME 1
#define STAMP_FLOW 2
#define PORT_FIRST 10000
#define PORT_DISCARD 9
#define CPUS 256
#define SAMPLES 65536
/* Runs that pass before a full window is looked at again: looking takes the counter's
 * cache line away from the processor that counts. */
#define PATIENCE 16
/* A window opens when so many frames more may go. */
#define OPENING 32
/* A generator that does not run for so many nanoseconds is kept from it. Between two runs the kernel may
 * serve others' packets, but not for as long. */
#define KEPT 2000000

struct config {
	__u32 flows;
	__u32 window;
	__u64 lost; /* frames given up: no longer under way */
	__u64 headers[HEADERS / 8]; /* in words: what the generator costs is in every figure */
	__u16 headers_end;
	__u16 unused;
	/* Flow n is address number n & hosts_mask, port number n >> hosts_bits. */
	__u32 hosts_mask;
	__u32 hosts_bits;
	/* Sums of 16-bit words, the flow's address half and port and the checksum left out. */
	__u32 ip_sum;
	__u32 udp_sum;
	__u32 payload_sum;
	__u32 stamp; /* STAMP_*, or 0 */
	__u32 cpus;
	/* What arrives, in network order. */
	__u32 source;
	__u32 source_mask;
	__u32 destination;
	__u32 mac_high; /* the first four bytes */
	__u16 mac_low;  /* the other two */
	__u16 unused2;
	/* From one flow to the next: large, and without a divisor in common with `flows`. In
	 * order, tables would be read in the order they were filled in. */
	__u32 step;
	/* With a rate, frames go when they are due: `base` ones were when it was `begun`. */
	__u64 begun;
	__u64 base;
	__u32 rate; /* a second; 0: as fast as the window lets them */
	__u32 late; /* a window that is full for so many nanoseconds is taken for lost */
	__u64 most; /* frames at most, all in all; of a rate there is no such bound */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} flows_settings SEC(".maps");

/* The generator's own. */
struct sent {
	__u64 frames;
	__u64 limit; /* of frames, as far as the window is known to be open */
	__u32 flow;
	__u32 patience;
	__u64 closed;   /* since when the window is full */
	__u64 forgiven; /* frames that did not come in time and are not waited for */
	__u64 ran;	/* when it ran last */
	__u64 kept;	/* how long it was kept from running, all in all */
	__u64 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sent);
} flows_sent SEC(".maps");

/* A cache line for each processor. */
struct arrived {
	__u64 right;
	__u64 wrong;
	__u64 unused[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CPUS);
	__type(key, __u32);
	__type(value, struct arrived);
} flows_arrived SEC(".maps");

/* What came of a flow whose frames carry its number. */
struct heard {
	__u64 frames;
	__u64 last;    /* when the last one came */
	__u64 silence; /* the longest time between two, less what the generator was kept */
	__u32 source;  /* from where the first one came */
	__u16 port;
	__u16 strays; /* from elsewhere; no more are counted than fit */
	__u32 kept;   /* microseconds that the generator had been kept when it sent the last one */
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct heard);
} flows_heard SEC(".maps");

/* Nanoseconds on the way, in the order of arrival; the first word is their number. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SAMPLES + 1);
	__type(key, __u32);
	__type(value, __u32);
} flows_times SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} flows_out SEC(".maps");

/* The same of all numbered frames; and the longest time between two as it was. */
struct pause {
	__u64 last;
	__u64 silence;
	__u64 whole;
	__u32 kept;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pause);
} flows_pause SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} flows_sockets SEC(".maps");

#define AT(type, at) (*(type *)(at))

force_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static long add_arrived(__u32 cpu, void *sum)
{
	struct arrived *line = bpf_map_lookup_elem(&flows_arrived, &cpu);
	if (line)
		*(__u64 *)sum += *(volatile __u64 *)&line->right;
	return 0;
}

/* Frames under way. */
force_inline __u64 under_way(const struct config *config, __u64 sent)
{
	__u64 gone = *(volatile const __u64 *)&config->lost;
	bpf_loop(config->cpus, add_arrived, &gone, 0);
	return sent - gone;
}

/* Whether one more is due, and may go: what is lost on the way must not stop the others. */
force_inline int due(const struct config *config, struct sent *sent)
{
	__u64 now = bpf_ktime_get_ns();

	if (sent->ran && now - sent->ran > KEPT)
		sent->kept += now - sent->ran;
	sent->ran = now;
	if (sent->frames >= config->base + (now - config->begun) * config->rate / 1000000000)
		return 0;
	if (sent->frames < sent->limit)
		return 1;
	__u64 waiting = under_way(config, sent->frames);
	__s64 room = (__s64)config->window - (__s64)(waiting - sent->forgiven);
	if (room > 0) {
		sent->closed = 0;
		sent->limit = sent->frames + (room < config->window ? room : config->window);
		return 1;
	}
	if (!sent->closed) {
		sent->closed = now;
	} else if (now - sent->closed > config->late) {
		sent->closed = 0;
		sent->forgiven = waiting;
	}
	return 0;
}

/* Whether one more may go. */
force_inline int open(const struct config *config, struct sent *sent)
{
	if (sent->frames < sent->limit)
		return 1;
	if (sent->patience > 0) {
		sent->patience -= 1;
		return 0;
	}
	__s64 room = (__s64)config->window - (__s64)under_way(config, sent->frames);
	__s64 opening = config->window < OPENING ? config->window : OPENING;
	if (room < opening || room <= 0) {
		sent->patience = PATIENCE;
		return 0;
	}
	sent->limit = sent->frames + room;
	if (sent->limit > config->most)
		sent->limit = config->most;
	return sent->frames < sent->limit;
}

SEC("xdp")
int flows_generate(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct config *config = bpf_map_lookup_elem(&flows_settings, &zero);
	struct sent *sent = bpf_map_lookup_elem(&flows_sent, &zero);
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (!config || !sent || data + HEADERS + STAMP_BYTES > end)
		return XDP_ABORTED;
	if (config->rate ? !due(config, sent) : !open(config, sent))
		return XDP_DROP;
	__u32 flow = sent->flow, next = flow + config->step;
	sent->flow = next < config->flows ? next : next - config->flows;
	sent->frames += 1;

	for (int word = 0; word < HEADERS / 8; word++)
		AT(__u64, data + 8 * word) = config->headers[word];
	AT(__u16, data + HEADERS - 2) = config->headers_end;
	/* The address's lower half, and the port. */
	__u16 host = AT(__u16, data + 28) | bpf_htons(flow & config->hosts_mask);
	__u16 port = bpf_htons(PORT_FIRST + (flow >> config->hosts_bits));
	__u64 udp_sum = (__u64)config->udp_sum + host + port;
	if (config->stamp) {
		__u64 kept = sent->kept / 1000 << 32;
		__u64 stamp = config->stamp == STAMP_FLOW ? flow | kept : bpf_ktime_get_ns();
		AT(__u64, data + HEADERS) = stamp;
		udp_sum += (stamp & 0xffffffff) + (stamp >> 32);
	}
	__u16 udp_check = ~fold(udp_sum);
	AT(__u16, data + 28) = host;
	AT(__u16, data + 24) = ~fold((__u64)config->ip_sum + host);
	AT(__u16, data + 34) = port;
	AT(__u16, data + 40) = udp_check ? udp_check : 0xffff;
	return bpf_redirect_map(&flows_out, 0, 0);
}

/* Whether the frame is what the device had to send. */
force_inline int right(const struct config *config, const void *data)
{
	__u32 source = AT(__u32, data + 26), destination = AT(__u32, data + 30);
	if (AT(__u32, data) != config->mac_high || AT(__u16, data + 4) != config->mac_low)
		return 0;
	if ((source & config->source_mask) != config->source || destination != config->destination)
		return 0;
	__u64 addresses = (__u64)source + destination;
	__u64 ip_sum = addresses + AT(__u32, data + 14) + AT(__u32, data + 18) + AT(__u32, data + 22);
	if (fold(ip_sum) != 0xffff)
		return 0;
	__u64 udp_sum = addresses + AT(__u32, data + 34) + AT(__u32, data + 38) +
			AT(__u16, data + 38) + bpf_htons(PROTO_UDP) + config->payload_sum;
	if (config->stamp)
		udp_sum += (__u64)AT(__u32, data + HEADERS) + AT(__u32, data + HEADERS + 4);
	return fold(udp_sum) == 0xffff;
}

force_inline void note_time(__u64 sent_at)
{
	__u32 zero = 0;
	__u32 *number = bpf_map_lookup_elem(&flows_times, &zero);
	if (!number)
		return;
	__u32 place = __sync_fetch_and_add(number, 1) % SAMPLES + 1;
	__u32 *time = bpf_map_lookup_elem(&flows_times, &place);
	if (time)
		*time = bpf_ktime_get_ns() - sent_at;
}

/* `kept`: microseconds that the generator was kept meanwhile; less than none if frames overtook one
 * another. */
force_inline void note_silence(__u64 *longest, __u64 silence, __s32 kept)
{
	__u64 own = kept > 0 ? (__u64)kept * 1000 : 0;

	if (silence > own && silence - own > *longest)
		*longest = silence - own;
}

force_inline void note_flow(const void *data)
{
	__u32 flow = AT(__u32, data + HEADERS), source = AT(__u32, data + 26);
	__u32 kept = AT(__u32, data + HEADERS + 4);
	__u16 port = AT(__u16, data + 34);
	struct heard *heard = bpf_map_lookup_elem(&flows_heard, &flow);
	__u32 zero = 0;
	struct pause *pause = bpf_map_lookup_elem(&flows_pause, &zero);
	__u64 now = bpf_ktime_get_ns();

	if (!heard || !pause)
		return;
	/* Another processor may have seen a later frame meanwhile. */
	if (pause->last && now > pause->last) {
		if (now - pause->last > pause->whole)
			pause->whole = now - pause->last;
		note_silence(&pause->silence, now - pause->last, kept - pause->kept);
	}
	pause->last = now;
	pause->kept = kept;
	if (!heard->frames) {
		heard->source = source;
		heard->port = port;
	} else if ((heard->source != source || heard->port != port) && heard->strays < 0xffff) {
		heard->strays += 1;
	}
	if (heard->last && now > heard->last)
		note_silence(&heard->silence, now - heard->last, kept - heard->kept);
	heard->last = now;
	heard->kept = kept;
	heard->frames += 1;
}

SEC("xdp")
int flows_count(struct xdp_md *ctx)
{
	__u32 zero = 0, cpu = bpf_get_smp_processor_id();
	struct config *config = bpf_map_lookup_elem(&flows_settings, &zero);
	struct arrived *arrived = bpf_map_lookup_elem(&flows_arrived, &cpu);
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (!config || !arrived || data + HEADERS + STAMP_BYTES > end)
		return XDP_PASS;
	/* IPv4 without options, UDP, the discard port. */
	if (AT(__u16, data + 12) != bpf_htons(ETHERTYPE_IPV4) || AT(__u8, data + 14) != 0x45 ||
	    AT(__u8, data + 23) != PROTO_UDP || AT(__u16, data + 36) != bpf_htons(PORT_DISCARD))
		return XDP_PASS;
	if (!right(config, data)) {
		arrived->wrong += 1;
		return XDP_DROP;
	}
	arrived->right += 1;
	if (config->stamp == STAMP_TIME)
		note_time(AT(__u64, data + HEADERS));
	else if (config->stamp == STAMP_FLOW)
		note_flow(data);
	return XDP_DROP;
}

/* In the place of a device that works in user space. */
SEC("xdp")
int flows_to_sockets(struct xdp_md *ctx)
{
	return bpf_redirect_map(&flows_sockets, ctx->rx_queue_index, XDP_DROP);
}

char _license[] SEC("license") = "Apache-2.0";
