// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

#define TRACING		"/sys/kernel/tracing"
#define LRU_GEN		"/sys/kernel/debug/lru_gen"
/* Longer than any pass, and free: the guest skips idle time. */
#define POLL_MILLISECONDS 5000

void write_file(const char *path, const char *format, ...)
{
	FILE *file = fopen(path, "w");
	va_list args;

	if (!file)
		err(2, "%s", path);
	va_start(args, format);
	vfprintf(file, format, args);
	va_end(args);
	if (fclose(file))
		err(2, "writing %s", path);
}

unsigned long read_number(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned long number;

	if (!file)
		err(2, "%s", path);
	if (fscanf(file, "%lu", &number) != 1)
		errx(2, "%s: not a number", path);
	fclose(file);
	return number;
}

long read_field(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	long number = -1, value;
	char line[256], word[64];

	if (!file)
		err(2, "%s", path);
	while (number < 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63[^: ]%*[: ]%ld", word, &value) == 2 && !strcmp(word, name))
			number = value;
	}
	fclose(file);
	return number;
}

void all_sizes_off(void)
{
	struct dirent *entry;
	char path[512];
	DIR *dir = opendir(THP);

	if (!dir)
		err(2, THP ": this needs a kernel with transparent huge pages");
	write_file(THP "enabled", "never");
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, "hugepages-", strlen("hugepages-")))
			continue;
		snprintf(path, sizeof(path), THP "%s/enabled", entry->d_name);
		/* Sizes for shared memory only have no such file. */
		if (!access(path, F_OK))
			write_file(path, "never");
	}
	closedir(dir);
}

static void size_path(char path[256], unsigned long folio_kib, const char *name)
{
	snprintf(path, 256, THP "hugepages-%lukB/%s", folio_kib, name);
}

void write_size(unsigned long folio_kib, const char *name, const char *value)
{
	char path[256];

	size_path(path, folio_kib, name);
	write_file(path, "%s", value);
}

unsigned long read_size(unsigned long folio_kib, const char *name)
{
	char path[256];

	size_path(path, folio_kib, name);
	return read_number(path);
}

void each_process(const char *name, bool (*found)(const struct found_process *process, void *arg), void *arg)
{
	struct dirent *entry;
	bool more = true;
	char path[512];
	DIR *dir = opendir("/proc");

	if (!dir)
		err(2, "/proc");
	while (more && (entry = readdir(dir))) {
		struct found_process process;
		char found_name[32];
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fscanf(file, "%d (%31[^)]) %c", &process.pid, found_name, &process.state) == 3 &&
		    !strcmp(found_name, name))
			more = found(&process, arg);
		fclose(file);
	}
	closedir(dir);
}

static bool take_first_process(const struct found_process *process, void *arg)
{
	*(struct found_process *)arg = *process;
	return false;
}

int find_khugepaged(char *state)
{
	struct found_process khugepaged = {};

	each_process("khugepaged", take_first_process, &khugepaged);
	*state = khugepaged.state;
	return khugepaged.pid;
}

uint64_t nanoseconds(clockid_t clock)
{
	struct timespec now;

	if (clock_gettime(clock, &now))
		err(2, "clock_gettime");
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

clockid_t cpu_clock_of(int pid)
{
	clockid_t clock;
	int error = clock_getcpuclockid(pid, &clock);

	if (error)
		errx(2, "khugepaged's CPU clock: %s", strerror(error));
	return clock;
}

void sleep_milliseconds(unsigned int milliseconds)
{
	struct timespec time = {
		.tv_sec = milliseconds / 1000,
		.tv_nsec = milliseconds % 1000 * 1000000,
	};

	while (nanosleep(&time, &time))
		;
}

void wait_until_idle(int pid)
{
	wait_until_idle_for(pid, POLL_MILLISECONDS);
}

void wait_until_idle_for(int pid, unsigned int milliseconds)
{
	uint64_t before, now = nanoseconds(cpu_clock_of(pid));
	char state;

	do {
		before = now;
		/*
		 * khugepaged has the CPU for itself meanwhile. Short sleeps would cut
		 * into its pass, and then its clock is short of what it ran.
		 */
		sleep_milliseconds(milliseconds);
		if (find_khugepaged(&state) != pid)
			errx(2, "khugepaged has gone");
		now = nanoseconds(cpu_clock_of(pid));
	} while (state == 'R' || state == 'D' || now != before);
}

/* A loop of known length must take as many nanoseconds as instructions. */
void check_clock_counts_instructions(void)
{
	const uint64_t rounds = 50 * 1000 * 1000;
	uint64_t start, took, left = rounds;

	start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	while (left) {
		left--;
		asm volatile("" : "+r" (left)); /* the loop is to be there */
	}
	took = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start;

	/* A subtraction and a branch at least, and a test or a move or two. */
	if (took < rounds * 2 || took > rounds * 5)
		errx(2, "%llu ns for a loop of %llu rounds: a nanosecond is not an instruction here, boot with QEMU's -icount shift=0",
		     (unsigned long long)took, (unsigned long long)rounds);
}

void become_first(void)
{
	if (sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 }))
		err(2, "sched_setscheduler");
}

static int open_tracepoint_sampling(const char *tracepoint, const char *filter,
				    int pid, uint64_t sample_type)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.sample_period = 1,
		.sample_type = sample_type,
	};
	char path[256];
	int fd;

	if (access(TRACING "/events", F_OK) &&
	    mount("tracefs", TRACING, "tracefs", 0, NULL))
		err(2, "mounting " TRACING);
	snprintf(path, sizeof(path), TRACING "/events/%s/id", tracepoint);
	attr.config = read_number(path);
	fd = syscall(SYS_perf_event_open, &attr, pid, -1, -1, 0);
	if (fd < 0)
		err(2, "counting %s", tracepoint);
	if (filter && ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter))
		err(2, "filter '%s' on %s", filter, tracepoint);
	return fd;
}

int open_tracepoint(const char *tracepoint, const char *filter, int pid)
{
	return open_tracepoint_sampling(tracepoint, filter, pid, 0);
}

uint64_t tracepoint_count(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) != sizeof(count))
		err(2, "reading the count of a tracepoint");
	return count;
}

/* What the kernel writes for a hit if it is asked for the time alone. */
struct time_sample {
	struct perf_event_header header;
	uint64_t time;
};

#define RING_SIZE (RECORDED_TIMES * sizeof(struct time_sample))

void record_tracepoint(struct recording *recording, const char *tracepoint,
		       const char *filter, int pid)
{
	recording->fd = open_tracepoint_sampling(tracepoint, filter, pid, PERF_SAMPLE_TIME);
	recording->ring = mmap(NULL, sysconf(_SC_PAGESIZE) + RING_SIZE,
			       PROT_READ | PROT_WRITE, MAP_SHARED, recording->fd, 0);
	if (recording->ring == MAP_FAILED)
		err(2, "a buffer for %s", tracepoint);
}

size_t take_recorded_times(struct recording *recording, uint64_t times[RECORDED_TIMES])
{
	struct perf_event_mmap_page *ring = recording->ring;
	const char *data = (const char *)ring + sysconf(_SC_PAGESIZE);
	uint64_t head = __atomic_load_n(&ring->data_head, __ATOMIC_ACQUIRE);
	uint64_t at = ring->data_tail;
	size_t nr = 0;

	while (at < head) {
		const struct time_sample *sample = (const void *)(data + at % RING_SIZE);

		/* All samples have the same size, so none goes around the end. */
		if (sample->header.type != PERF_RECORD_SAMPLE ||
		    sample->header.size != sizeof(*sample))
			errx(2, "a record of type %u and %u bytes: too many hits for the buffer?",
			     sample->header.type, sample->header.size);
		times[nr++] = sample->time;
		at += sizeof(*sample);
	}
	__atomic_store_n(&ring->data_tail, head, __ATOMIC_RELEASE);
	return nr;
}

static int compare_numbers(const void *left, const void *right)
{
	const uint64_t *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

void sort_numbers(uint64_t *numbers, size_t nr)
{
	qsort(numbers, nr, sizeof(*numbers), compare_numbers);
}

/*
 * The commands for one walk over each memcg and node. The file has a line
 * "memcg ID PATH", for each of its nodes "node ID", and for each generation
 * "NUMBER ...", the youngest last. Without swap, a walk leaves anonymous memory
 * out unless it is told a swappiness (see multigen_lru.rst): this one is told.
 */
static size_t aging_commands(char *commands, size_t size)
{
	FILE *file = fopen(LRU_GEN, "r");
	unsigned long long memcg = 0, youngest = 0, number;
	size_t length = 0;
	char line[512];
	int node = -1;
	bool more;

	if (!file)
		err(2, LRU_GEN);
	do {
		more = fgets(line, sizeof(line), file);
		if (more && sscanf(line, " %llu", &number) == 1) {
			youngest = number;
			continue;
		}
		if (node >= 0)
			length += snprintf(commands + length, size - length,
					   "+ %llu %d %llu 1\n", memcg, node, youngest);
		if (length >= size)
			errx(2, LRU_GEN ": too many memcgs");
		node = -1;
		if (more && sscanf(line, " node %d", &node) != 1)
			sscanf(line, "memcg %llu", &memcg);
	} while (more);
	fclose(file);
	if (!length)
		errx(2, LRU_GEN " names no memcg");
	return length;
}

uint64_t age_memory(void)
{
	char commands[16384];
	int fd = open(LRU_GEN, O_WRONLY), tries = 0;
	uint64_t start;

	if (fd < 0)
		err(2, LRU_GEN);
	for (;;) {
		size_t length = aging_commands(commands, sizeof(commands));

		start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
		if (write(fd, commands, length) == (ssize_t)length)
			break;
		/* Reclaim may have aged by itself since the file was read. */
		if (++tries == 3)
			err(2, LRU_GEN ": '%s'", commands);
	}
	start = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start;
	close(fd);
	return start;
}

struct address_range map_memory(unsigned long size, unsigned long pmd_size)
{
	struct address_range memory;
	char *area = mmap(NULL, size + pmd_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		err(2, "mapping memory");
	memory.start = ((unsigned long)area + pmd_size - 1) & ~(pmd_size - 1);
	memory.end = memory.start + size;
	return memory;
}

unsigned long parse_number(const char *text)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (!*text || *end)
		errx(2, "'%s' is not a number", text);
	return number;
}

void print_hint_counters(void)
{
	static const char *const names[] = { "queued", "dropped", "stale", "collapsed", "failed" };
	char name[64];
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		long count;

		snprintf(name, sizeof(name), "thp_collapse_hint_%s", names[i]);
		count = read_field("/proc/vmstat", name);
		/* A kernel without hints has no such line: it had none of them. */
		printf("hints_%s,%ld\n", names[i], count < 0 ? 0 : count);
	}
}
