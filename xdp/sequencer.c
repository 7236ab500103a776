/* SPDX-License-Identifier: Apache-2.0
 *
 * The sequencer in the network: verifies requests, stamps them in place and multicasts
 * them to all replicas (NOPaxos, section 4). The packets are those of the Rust crate
 * `wire`, module `oum`, whose diagram has the offsets used here; a test runs both on the
 * same packets.
 *
 *   client ──▶ sequencer ──▶ devmap ─┬─▶ sequencer_address ──▶ replica 0
 *                                    ├─▶ sequencer_address ──▶ replica 1
 *                                    └─▶ ...
 *
 * Copies are plain unicast: replicas keep their UDP sockets, and any network that carries
 * IPv4 will do. Everything that is not a request (sessions, tails, ARP), and requests in
 * fragments, behind IP options or with a VLAN tag, go to the kernel and so to the user-space
 * agent, as all do while there is no session.
 *
 * A session and its counters are one object that is never used for another session. The
 * agent makes a new one and puts it in the place of the old; that system call returns when
 * no program uses the old one any more. So no number of one session can ever be stamped
 * under another.
 */
#include "siphash.h"

#define VERSION 1
#define KIND_REQUEST 1
#define KIND_ORDERED 2
#define HEADER 112 /* bytes before the operations */
#define STAMPS 4   /* groups a message may be for */
#define GROUPS 16  /* groups a sequencer numbers */
#define REPLICAS 9
#define CLIENTS 1024
#define REPLAY_WINDOW 1024
#define REPLAY_WORDS (REPLAY_WINDOW / 64)
#define LAST_NUMBER ((1ULL << 56) - 1)

/* Where an untagged frame's headers and its packet begin. */
#define IP ETH_BYTES
#define UDP (IP + IPV4_BYTES)
#define PACKET (UDP + 8)

enum {
	COUNT_STAMPED,
	COUNT_PASSED,
	COUNT_MALFORMED,
	COUNT_UNAUTHENTIC,
	COUNT_STRANGER,
	COUNT_REPLAYED,
	COUNT_UNSTAMPED,
	COUNTERS
};

/* Fields that are written as they are stand in network order. */
struct settings {
	__u32 address;
	__u16 port;
	__u16 unused;
	__u64 head; /* the first eight bytes of what it stamps */
	struct sip request; /* the key that clients tag with */
};

struct session {
	__u64 formation; /* network order */
	__u64 number;    /* network order; 0: none */
	__u64 not_before; /* log time */
	__u64 ahead;      /* log time minus the kernel's monotonic clock */
	struct sip ordered; /* the key of ordered messages, with head, formation and session absorbed */
	__u64 several;      /* not 0: a processor numbers several groups */
	__u64 last[GROUPS]; /* numbers given */
};

/* Which requests of the newest life of a client were seen, as in `ReplayWindow`. Packets of
 * one client come to one CPU; should they not, a request may be taken twice, which the
 * replicas' client table makes good. */
struct window {
	__u64 life;
	__u64 newest;
	__u64 any;
	__u64 seen[REPLAY_WORDS];
};

/* A replica behind an interface. */
struct target {
	__u8 mac[6];
	__u8 from[6];
	__u32 address; /* network order */
	__u16 port;
	__u16 sum; /* of the address, for the checksum */
	__u32 unused;
};

/* All replicas, by the interfaces that they are reached by. */
struct ports {
	__u32 ifindex[REPLICAS];
	__u32 count[REPLICAS];
	struct target targets[REPLICAS][REPLICAS];
};

/* Which copy of a message comes next. */
struct turn {
	__u64 tag;
	__u64 copies;
};

/* The time that all messages of a tick of the kernel's share. */
struct tick {
	__u64 jiffies;
	__u64 now;
};

#define MAP(name, kind, entries, content)     \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_##kind);    \
		__uint(max_entries, entries);         \
		__type(key, __u32);                   \
		__type(value, content);               \
	} name SEC(".maps")

MAP(sequencer, ARRAY, 1, struct settings);
/* By sender: the place of its window, plus 1; 0: not a client. */
MAP(clients, ARRAY, 65536, __u16);
MAP(windows, ARRAY, CLIENTS, struct window);
MAP(ports, ARRAY, 1, struct ports);
MAP(replicas, DEVMAP, REPLICAS, struct bpf_devmap_val);
MAP(turns, PERCPU_ARRAY, REPLICAS, struct turn);
MAP(ticks, PERCPU_ARRAY, 1, struct tick);
MAP(counters, PERCPU_ARRAY, COUNTERS, __u64);

/* Its variable is no session; the compiler describes the type only if there is one. */
struct session_array {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct session);
} no_session SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct session_array);
} sessions SEC(".maps");

force_inline int done(__u32 counter, int action)
{
	__u64 *count = bpf_map_lookup_elem(&counters, &counter);

	if (count)
		*count += 1;
	return action;
}

#define WORD(at) (*(__u64 *)(at))
#define HALF(at) (*(__u32 *)(at))
#define SHORT(at) (*(__u16 *)(at))

/* RFC 4303, 3.4.3: what `is_new` does with a number that is not the next one. Not inlined:
 * the usual case shall be short. */
static __noinline int is_new_anyway(struct window *window, __u64 life, __u64 counter)
{
	__u64 mask = 1ULL << (counter & 63);
	__u64 *word = &window->seen[counter / 64 % REPLAY_WORDS];

	if (life < window->life)
		return 0;
	if (life > window->life || !window->any) {
		__builtin_memset(window->seen, 0, sizeof(window->seen));
		window->life = life;
		window->any = 1;
	} else if (counter > window->newest) {
		/* What lies between is not seen yet: word by word, at most all of them. */
		__u64 at = window->newest + 1;

		for (int i = 0; i <= REPLAY_WORDS && at <= counter; i++) {
			__u64 below = (1ULL << (at & 63)) - 1;
			__u64 first = at / 64 * 64;
			__u64 keep = below;

			if (counter - first < 63)
				keep |= ~0ULL << (counter - first + 1);
			window->seen[at / 64 % REPLAY_WORDS] &= keep;
			at = first + 64;
		}
	} else if (window->newest - counter >= REPLAY_WINDOW || (*word & mask)) {
		return 0;
	} else {
		*word |= mask;
		return 1;
	}
	window->newest = counter;
	*word |= mask;
	return 1;
}

/* Whether `counter` is new; from now on it is not. */
force_inline int is_new(struct window *window, __u64 life, __u64 counter)
{
	if (life != window->life || !window->any || counter != window->newest + 1)
		return is_new_anyway(window, life, counter);
	window->seen[counter / 64 % REPLAY_WORDS] |= 1ULL << (counter & 63);
	window->newest = counter;
	return 1;
}

/* Whether the request names one to four different groups and nothing after them. */
force_inline int groups_are_sound(__u64 ids, __u32 count)
{
	__u16 a = ids, b = ids >> 16, c = ids >> 32, d = ids >> 48;

	if (count == 1)
		return ids >> 16 == 0;
	if (count == 2)
		return ids >> 32 == 0 && a != b;
	if (count == 3)
		return d == 0 && a != b && a != c && b != c;
	return count == 4 && a != b && a != c && a != d && b != c && b != d && c != d;
}

/* The counter of a group, unless it has no number left. The last is never given. */
force_inline __u64 *numbers_of(struct session *session, __u16 group)
{
	__u32 place = bpf_ntohs(group);

	if (place >= GROUPS || session->last[place] >= LAST_NUMBER - 1)
		return 0;
	return &session->last[place];
}

#define TRIES 512

/* Draws a number of each group into `words`, as one step: who draws for several groups on
 * another processor does so before all of it or after. 0 if that cannot be: no such group,
 * or a crowd. */
static __noinline int draw_several(struct session *session, __u64 ids, __u32 count, __u64 *words)
{
	int drawn = 1, tries = 0;

	while (__sync_val_compare_and_swap(&session->several, 0, 1) != 0)
		if (++tries == TRIES)
			return 0;
	for (__u32 i = 0; i < STAMPS; i++)
		if (i < count && !numbers_of(session, ids >> (16 * i)))
			drawn = 0;
	for (__u32 i = 0; i < STAMPS; i++) {
		__u64 *numbers = drawn && i < count ? numbers_of(session, ids >> (16 * i)) : 0;

		if (numbers)
			words[i] = bpf_cpu_to_be64(__sync_fetch_and_add(numbers, 1) + 1);
	}
	__sync_lock_test_and_set(&session->several, 0);
	return drawn;
}

/* The kernel's monotonic clock, as it was when this processor first asked in this tick. To
 * read it costs a third of all that stamping does; log time is for timers, and what reads it
 * takes the highest it saw. */
force_inline __u64 now(void)
{
	__u32 zero = 0;
	__u64 jiffies = bpf_jiffies64();
	struct tick *tick = bpf_map_lookup_elem(&ticks, &zero);

	if (!tick)
		return bpf_ktime_get_ns();
	if (tick->jiffies != jiffies) {
		tick->jiffies = jiffies;
		tick->now = bpf_ktime_get_ns();
	}
	return tick->now;
}

force_inline struct session *session_in_force(void)
{
	__u32 zero = 0;
	void *place = bpf_map_lookup_elem(&sessions, &zero);

	return place ? bpf_map_lookup_elem(place, &zero) : 0;
}

/* Writes what the sequencer says into a request and renews its tag: 0 if it has no number. */
force_inline int write_stamp(const struct settings *settings, struct session *session, __u8 *p,
			     int authentic)
{
	__u64 ids = WORD(p + 96), inner = WORD(p + 72), words[STAMPS] = {};
	__u32 count = p[88];

	if (count == 1) {
		__u64 *numbers = numbers_of(session, ids);

		if (!numbers)
			return 0;
		words[0] = bpf_cpu_to_be64(__sync_fetch_and_add(numbers, 1) + 1);
	} else if (!draw_several(session, ids, count, words)) {
		return 0;
	}
	__u64 time = now() + session->ahead;

	if (time < session->not_before)
		time = session->not_before;
	time = bpf_cpu_to_be64(time);
	WORD(p) = settings->head;
	WORD(p + 16) = session->formation;
	WORD(p + 24) = session->number;
	WORD(p + 32) = time;
	for (__u32 i = 0; i < STAMPS; i++)
		WORD(p + 40 + 8 * i) = words[i];
	if (authentic) {
		struct sip tag = session->ordered;

		sip_word(&tag, time);
		sip_word(&tag, inner);
		for (__u32 i = 1; i < STAMPS; i++)
			if (i < count)
				sip_word(&tag, words[i]);
		WORD(p + 8) = bpf_cpu_to_be64(sip_finish(&tag, words[0] >> 8, 39 + 8 * count));
	}
	return 1;
}

/* A request, `p` its first byte. Every header byte exists. */
force_inline int stamp(const struct settings *settings, __u8 *p, int authentic)
{
	__u64 id = WORD(p + 80), counter = WORD(p + 88);
	struct session *session = session_in_force();

	if (!session || session->number == 0)
		return done(COUNT_PASSED, XDP_PASS);
	if (p[2] != VERSION || !groups_are_sound(WORD(p + 96), p[88]))
		return done(COUNT_MALFORMED, XDP_DROP);
	if (authentic) {
		struct sip tag = settings->request;

		sip_word(&tag, id);
		if (bpf_cpu_to_be64(sip_finish(&tag, counter >> 8, 15)) != WORD(p + 8))
			return done(COUNT_UNAUTHENTIC, XDP_DROP);
	}
	id = bpf_be64_to_cpu(id);
	__u32 sender = id & 0xffff;
	__u16 *client = bpf_map_lookup_elem(&clients, &sender);

	if (!client || *client == 0)
		return done(COUNT_STRANGER, XDP_DROP);
	if (authentic) {
		__u32 place = *client - 1;
		struct window *window = bpf_map_lookup_elem(&windows, &place);

		counter = bpf_be64_to_cpu(counter) & LAST_NUMBER;
		if (!window || !is_new(window, id >> 16, counter))
			return done(COUNT_REPLAYED, XDP_DROP);
	}
	if (!write_stamp(settings, session, p, authentic))
		return done(COUNT_UNSTAMPED, XDP_DROP);
	return done(COUNT_STAMPED, XDP_REDIRECT);
}

force_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Makes the sequencer the sender of a frame that it got. What all copies share is done here;
 * in place of the IPv4 checksum stands its sum without the destination. The UDP checksum
 * becomes 0, "not computed": the tags say more than it could. */
force_inline void send_from_here(__u8 *frame)
{
	__u8 *ip = frame + IP, *udp = frame + UDP;

	HALF(ip + 8) = bpf_htonl(64 << 24 | PROTO_UDP << 16);
	HALF(ip + 12) = HALF(ip + 16);
	SHORT(ip + 10) = fold((__u64)HALF(ip) + HALF(ip + 4) + HALF(ip + 8) + HALF(ip + 12));
	SHORT(udp) = SHORT(udp + 2);
	SHORT(udp + 6) = 0;
}

/* An untagged frame with headers of IPv4 and UDP. What bears a VLAN tag is for the kernel:
 * it knows to which of its interfaces the tag leads, and the replicas may be elsewhere. */
force_inline int sequence(struct frame frame, int authentic)
{
	__u32 zero = 0;
	struct settings *settings = bpf_map_lookup_elem(&sequencer, &zero);
	__u8 *ip = frame.data + IP, *udp = frame.data + UDP, *p = frame.data + PACKET;

	if (!settings || p + 4 > frame.end || SHORT(frame.data + 12) != bpf_htons(ETHERTYPE_IPV4) ||
	    ip[0] != 0x45 || ip[9] != PROTO_UDP || HALF(ip + 16) != settings->address ||
	    SHORT(udp + 2) != settings->port)
		return done(COUNT_PASSED, XDP_PASS);
	/* A fragment, or not a request: for the agent. */
	if (SHORT(ip + 6) & bpf_htons(0x3fff) || p[0] != 'S' || p[1] != 'O' || p[3] != KIND_REQUEST)
		return done(COUNT_PASSED, XDP_PASS);
	__u32 length = be16(udp + 4);

	if (p + HEADER > frame.end || length < 8 + HEADER || length + IPV4_BYTES != be16(ip + 2) ||
	    udp + length > frame.end)
		return done(COUNT_MALFORMED, XDP_DROP);
	int action = stamp(settings, p, authentic);

	if (action != XDP_REDIRECT)
		return action;
	send_from_here(frame.data);
	return bpf_redirect_map(&replicas, 0, BPF_F_BROADCAST);
}

SEC("xdp")
int sequencer_stamp(struct xdp_md *ctx)
{
	return sequence(frame_of(ctx), 1);
}

/* The same without tags and replay windows: what authentication costs is the difference. */
SEC("xdp")
int sequencer_bare(struct xdp_md *ctx)
{
	return sequence(frame_of(ctx), 0);
}

/* No sequencer at all, only its multicast: what stamping costs is the difference. */
SEC("xdp")
int sequencer_forward(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);

	if (frame.data + PACKET > frame.end || frame.data[IP + 9] != PROTO_UDP)
		return done(COUNT_PASSED, XDP_PASS);
	send_from_here(frame.data);
	return bpf_redirect_map(&replicas, 0, BPF_F_BROADCAST);
}

/* The kernel's multicast, and nothing else: the limit. */
SEC("xdp")
int sequencer_limit(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);

	if (frame.data + PACKET > frame.end || frame.data[IP + 9] != PROTO_UDP)
		return XDP_PASS;
	return bpf_redirect_map(&replicas, 0, BPF_F_BROADCAST);
}

/* Addresses a copy to a replica. */
force_inline int address(struct frame frame, const struct target *target)
{
	__u8 *ip = frame.data + IP, *udp = frame.data + UDP;

	if (frame.data + PACKET > frame.end)
		return XDP_DROP;
	WORD(frame.data) = WORD(target->mac);
	HALF(frame.data + 8) = HALF(target->from + 2);
	HALF(ip + 16) = target->address;
	SHORT(ip + 10) = ~fold((__u32)SHORT(ip + 10) + target->sum);
	SHORT(udp + 2) = target->port;
	return XDP_PASS;
}

/* Which copy of its message this is, of those that leave by the same interface: they come
 * one after the other, on one CPU. */
force_inline __u32 copy_of(struct frame frame, __u32 port)
{
	struct turn *turn = bpf_map_lookup_elem(&turns, &port);
	__u8 *p = frame.data + PACKET;

	if (p + 16 > frame.end || !turn)
		return 0;
	if (turn->tag != WORD(p + 8)) {
		turn->tag = WORD(p + 8);
		turn->copies = 0;
	}
	return turn->copies++;
}

SEC("xdp/devmap")
int sequencer_address(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);
	__u32 zero = 0, egress = ctx->egress_ifindex, copy = 0;
	struct ports *all = bpf_map_lookup_elem(&ports, &zero);

	if (!all)
		return XDP_DROP;
	for (__u32 i = 0; i < REPLICAS; i++) {
		if (all->ifindex[i] != egress)
			continue;
		if (all->count[i] > 1)
			copy = copy_of(frame, i);
		if (copy >= all->count[i] || copy >= REPLICAS)
			return XDP_DROP;
		return address(frame, &all->targets[i][copy]);
	}
	return XDP_DROP;
}

/* The first target's addressing, for tests. */
SEC("xdp")
int probe_address(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct ports *all = bpf_map_lookup_elem(&ports, &zero);

	return all ? address(frame_of(ctx), &all->targets[0][0]) : XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
