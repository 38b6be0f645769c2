// SPDX-License-Identifier: GPL-2.0
/*
 * As hot_set.c, with a redis server whose keys are asked for unevenly: all
 * requests go to a tenth of them.
 *
 * Which pages that makes hot is measured, through idle page tracking, before
 * the size is turned on: every page is marked idle, the hot keys are asked for
 * once, and the pages that are not idle any more are hot. Then clear_refs takes
 * back what the marking left in the page flags, and all keys are asked for, so
 * that every page is young when khugepaged begins.
 *
 * Each hot key is asked for every ten virtual seconds, 64 of them in a request.
 *
 * Prints CSV lines "measure,value".
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest.h"
#include "hot_watch.h"

#define SOCKET		"/tmp/redis.sock"
#define IDLE_BITMAP	"/sys/kernel/mm/page_idle/bitmap"
#define MIN_LENGTH	128
#define MAX_LENGTH	4096
#define KEYS_PER_REQUEST 64
#define ASK_SECONDS	10
#define SETTLE_SECONDS	10
#define WINDOW_PAGES	512

static const char usage[] =
"usage: hot_redis --keys N --order contiguous|random [--hot-percent P]\n"
"                 [--folio-kib KIB] [--limit SECONDS] [--no-hints] [--no-aging]\n"
"                 [--cpu-percent P]\n"
"  --order  the hot keys: those in the middle of the order they were added in, or\n"
"           any of them\n"
"  --cpu-percent  khugepaged's share of a CPU\n";

struct redis {
	int pid;
	int fd;
	unsigned long keys;
	bool *is_hot;
	unsigned int seconds;
};

static char buffer[KEYS_PER_REQUEST * (MAX_LENGTH + 64)];

static uint64_t hash(uint64_t number)
{
	number = (number + 1) * 0x9e3779b97f4a7c15ULL;
	number ^= number >> 29;
	number *= 0xbf58476d1ce4e5b9ULL;
	return number ^ number >> 32;
}

static size_t value_length(unsigned long key)
{
	return MIN_LENGTH + hash(key) % (MAX_LENGTH - MIN_LENGTH);
}

static void send_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t sent = write(fd, text, length);

		if (sent <= 0)
			err(2, "sending to redis");
		text += sent;
		length -= sent;
	}
}

static void receive(int fd, size_t length)
{
	size_t got = 0;

	while (got < length) {
		ssize_t part = read(fd, buffer + got, length - got);

		if (part <= 0)
			err(2, "reading from redis");
		got += part;
	}
}

static void add_keys(struct redis *redis, unsigned long first, unsigned long nr)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
	unsigned long key, done;
	size_t length, i;

	for (done = 0; done < nr; done += KEYS_PER_REQUEST) {
		unsigned long batch = nr - done < KEYS_PER_REQUEST ? nr - done : KEYS_PER_REQUEST;

		for (length = 0, key = first + done; key < first + done + batch; key++) {
			size_t value = value_length(key);
			char name[32];
			int name_length = snprintf(name, sizeof(name), "key:%lu", key);

			length += sprintf(buffer + length, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%zu\r\n",
					  name_length, name, value);
			for (i = 0; i < value; i += sizeof(letters) - 1)
				memcpy(buffer + length + i, letters, sizeof(letters) - 1);
			length += value;
			length += sprintf(buffer + length, "\r\n");
		}
		send_all(redis->fd, buffer, length);
		receive(redis->fd, batch * strlen("+OK\r\n"));
		for (i = 0; i < batch; i++) {
			if (memcmp(buffer + i * strlen("+OK\r\n"), "+OK\r\n", strlen("+OK\r\n")))
				errx(2, "redis did not take a key: %.80s", buffer);
		}
	}
}

static void ask(struct redis *redis, const unsigned long *keys, unsigned long nr)
{
	size_t length, answer;
	unsigned long i;
	char number[32];

	length = sprintf(buffer, "*%lu\r\n$4\r\nMGET\r\n", nr + 1);
	answer = sprintf(number, "*%lu\r\n", nr);
	for (i = 0; i < nr; i++) {
		char name[32];
		int name_length = snprintf(name, sizeof(name), "key:%lu", keys[i]);
		size_t value = value_length(keys[i]);

		length += sprintf(buffer + length, "$%d\r\n%s\r\n", name_length, name);
		answer += sprintf(number, "$%zu\r\n", value) + value + strlen("\r\n");
	}
	send_all(redis->fd, buffer, length);
	receive(redis->fd, answer);
	if (buffer[0] != '*' || buffer[answer - 1] != '\n')
		errx(2, "redis' answer is not what was asked for: %.80s", buffer);
}

static void ask_keys(struct redis *redis, bool only_hot)
{
	unsigned long batch[KEYS_PER_REQUEST], nr = 0, key;

	for (key = 0; key < redis->keys; key++) {
		if (only_hot && !redis->is_hot[key])
			continue;
		batch[nr++] = key;
		if (nr == KEYS_PER_REQUEST) {
			ask(redis, batch, nr);
			nr = 0;
		}
	}
	if (nr)
		ask(redis, batch, nr);
}

static void touch(void *arg, bool moved)
{
	struct redis *redis = arg;

	(void)moved;
	if (redis->seconds++ % ASK_SECONDS == 0)
		ask_keys(redis, true);
}

static void start_redis(struct redis *redis)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET };
	int tries;

	redis->pid = fork();
	if (redis->pid < 0)
		err(2, "fork");
	if (!redis->pid) {
		int log = open("/tmp/redis.log", O_WRONLY | O_CREAT, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(log, STDOUT_FILENO);
		dup2(log, STDERR_FILENO);
		/* Debian's redis would switch THP off for itself. */
		execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", SOCKET,
		       "--save", "", "--appendonly", "no", "--disable-thp", "no",
		       "--daemonize", "no", NULL);
		err(2, "redis-server");
	}
	redis->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	for (tries = 0; connect(redis->fd, (struct sockaddr *)&address, sizeof(address)); tries++) {
		if (tries == 60)
			err(2, "redis-server does not answer");
		sleep(1);
	}
}

/* Every page frame's bit of idle page tracking. */
struct idle_bits {
	uint64_t *words;
	size_t nr;
};

static void write_idle(bool idle)
{
	static uint64_t words[4096];
	int fd = open(IDLE_BITMAP, O_WRONLY);

	if (fd < 0)
		err(2, IDLE_BITMAP);
	memset(words, idle ? 0xff : 0, sizeof(words));
	while (write(fd, words, sizeof(words)) > 0)
		;
	close(fd);
}

static void read_idle(struct idle_bits *bits)
{
	int fd = open(IDLE_BITMAP, O_RDONLY);
	ssize_t got;

	if (fd < 0)
		err(2, IDLE_BITMAP);
	do {
		bits->words = reallocarray(bits->words, bits->nr + 4096, sizeof(*bits->words));
		if (!bits->words)
			err(2, "memory");
		got = read(fd, bits->words + bits->nr, 4096 * sizeof(*bits->words));
		if (got < 0)
			err(2, IDLE_BITMAP);
		bits->nr += got / sizeof(*bits->words);
	} while (got);
	close(fd);
}

static bool is_idle(const struct idle_bits *bits, unsigned long pfn)
{
	return pfn / 64 < bits->nr && bits->words[pfn / 64] >> pfn % 64 & 1;
}

struct hot_pages {
	int pagemap;
	struct idle_bits before;
	struct idle_bits after;
	unsigned long *addresses;
	size_t nr;
	size_t populated;
	size_t unknown;
};

static void add_hot_pages(const struct vma *vma, void *arg)
{
	unsigned long page_size = sysconf(_SC_PAGESIZE), pmd_size = read_number(THP "hpage_pmd_size");
	struct hot_pages *hot = arg;
	uint64_t entries[WINDOW_PAGES];
	unsigned long address, end, i;

	if (!vma_may_become_large(vma))
		return;
	/* What khugepaged leaves alone in any case: the ends of a VMA that fill no PMD. */
	address = (vma->range.start + pmd_size - 1) & ~(pmd_size - 1);
	end = vma->range.end & ~(pmd_size - 1);
	for (; address < end; address += WINDOW_PAGES * page_size) {
		if (pread(hot->pagemap, entries, sizeof(entries), address / page_size * sizeof(*entries)) !=
		    sizeof(entries))
			err(2, "pagemap");
		for (i = 0; i < WINDOW_PAGES; i++) {
			unsigned long pfn = entries[i] & ((1ULL << 55) - 1);

			if (!(entries[i] >> 63))
				continue;
			hot->populated++;
			if (!is_idle(&hot->before, pfn)) {
				hot->unknown++;
				continue;
			}
			if (is_idle(&hot->after, pfn))
				continue;
			if (hot->nr % 4096 == 0)
				hot->addresses = reallocarray(hot->addresses, hot->nr + 4096,
							      sizeof(*hot->addresses));
			if (!hot->addresses)
				err(2, "memory");
			hot->addresses[hot->nr++] = address + i * page_size;
		}
	}
}

static void find_hot_pages(struct redis *redis, struct hot_pages *hot)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", redis->pid);
	hot->pagemap = open(path, O_RDONLY);
	if (hot->pagemap < 0)
		err(2, "%s", path);
	/* Each request moves a part of the growing hash table: be done with that. */
	ask_keys(redis, false);
	sleep(SETTLE_SECONDS);
	/* Only pages on the LRU lists can be marked: this puts the stragglers there. */
	write_file("/sys/devices/system/node/node0/compact", "1");
	write_idle(true);
	read_idle(&hot->before);
	ask_keys(redis, true);
	read_idle(&hot->after);
	each_vma(redis->pid, add_hot_pages, hot);
	close(hot->pagemap);

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", redis->pid);
	write_file(path, "1");
	ask_keys(redis, false);
}

static void choose_hot_keys(struct redis *redis, const char *order, unsigned long percent)
{
	unsigned long first = redis->keys * (100 - percent) / 200;
	unsigned long nr = redis->keys * percent / 100, key;

	redis->is_hot = calloc(redis->keys, sizeof(*redis->is_hot));
	if (!redis->is_hot)
		err(2, "memory");
	for (key = 0; key < redis->keys; key++) {
		if (!strcmp(order, "contiguous"))
			redis->is_hot[key] = key >= first && key < first + nr;
		else if (!strcmp(order, "random"))
			redis->is_hot[key] = hash(key * 2 + 1) % 100 < percent;
		else
			errx(2, "'%s' is no order\n%s", order, usage);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "keys", required_argument, NULL, 'k' },
		{ "order", required_argument, NULL, 'o' },
		{ "hot-percent", required_argument, NULL, 'p' },
		{ "folio-kib", required_argument, NULL, 'f' },
		{ "limit", required_argument, NULL, 'l' },
		{ "no-hints", no_argument, NULL, 'n' },
		{ "no-aging", no_argument, NULL, 'a' },
		{ "cpu-percent", required_argument, NULL, 'c' },
		{ }
	};
	struct hot_watch watch = { .folio_kib = 64, .aging = true, .limit_seconds = 2000 };
	unsigned long percent = 10, added = 0;
	const char *order = "contiguous";
	struct hot_pages hot = { 0 };
	struct redis redis = { 0 };
	struct page_set set;
	bool hints = true;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'k':
			redis.keys = parse_number(optarg);
			break;
		case 'o':
			order = optarg;
			break;
		case 'p':
			percent = parse_number(optarg);
			break;
		case 'f':
			watch.folio_kib = parse_number(optarg);
			break;
		case 'l':
			watch.limit_seconds = parse_number(optarg);
			break;
		case 'n':
			hints = false;
			break;
		case 'a':
			watch.aging = false;
			break;
		case 'c':
			watch.cpu_percent = parse_number(optarg);
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc || !redis.keys || !percent || percent > 100) {
		fputs(usage, stderr);
		return 2;
	}
	choose_hot_keys(&redis, order, percent);

	check_clock_counts_instructions();
	all_sizes_off();
	if (!hints)
		write_file(THP "khugepaged/collapse_hints", "0");
	start_redis(&redis);
	add_keys(&redis, 0, redis.keys);
	find_hot_pages(&redis, &hot);
	printf("populated_kib,%lu\n", hot.populated * (sysconf(_SC_PAGESIZE) / 1024));
	printf("unknown_kib,%lu\n", hot.unknown * (sysconf(_SC_PAGESIZE) / 1024));
	fflush(stdout);

	set = (struct page_set){ .pid = redis.pid, .pages = hot.addresses, .nr = hot.nr };
	watch.hot = &set;
	watch.nr_hot = 1;
	watch.touch = touch;
	watch.arg = &redis;
	hot_watch_prepare(&watch);
	/* Some kernels get to know redis only by its page faults in new memory. */
	while (!hot_watch_has_begun(&watch)) {
		if (added == redis.keys / 4)
			errx(2, "khugepaged does not get to know redis");
		add_keys(&redis, redis.keys + added, 128);
		added += 128;
		usleep(100000);
	}
	printf("keys_added,%lu\n", added);
	hot_watch_run(&watch);
	return 0;
}
