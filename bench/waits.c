// SPDX-License-Identifier: GPL-2.0
/*
 * How long what a process does takes while khugepaged collapses its memory.
 *
 * Runs in a fresh guest with one CPU that counts instructions (QEMU -icount
 * shift=0: one nanosecond is one instruction). Who does an operation goes before
 * khugepaged. It sleeps until an instant that has nothing to do with where
 * khugepaged is, and then begins at once, unless khugepaged is in a stretch that
 * can't be preempted. So there are two figures: from the instant at which it
 * wanted to begin until the operation is done, and for the operation alone. What
 * another CPU would see is between them: it is not held up by a stretch that
 * can't be preempted, but by the locks that are held in it.
 *
 * The zero line is the same with khugepaged asleep and a thread of the least
 * priority in its place.
 *
 * Prints for each operation a line to read, and CSV lines "measure,value". The
 * names of the zero line end in "off", those for the operation alone in "alone".
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/kernel-page-flags.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define MAX_SAMPLES		16384
/*
 * The sleep is anything up to more than what khugepaged takes for 2 MiB, so that
 * no part of that is more likely to be met than another.
 */
#define SLEEP_NANOSECONDS	20000
#define SLEEP_MORE_NANOSECONDS	2000000
/* khugepaged is done if it did not run in that many sleeps. */
#define IDLE_PROBES		20
/* So many passes in a row without a sample are no accident. */
#define MAX_EMPTY_PASSES	3
#define MAX_PMDS		64
#define SMALL_AREA		(16 * 4096)

static const char usage[] =
"usage: waits --folio-kib KIB [--size-mib MIB] [--samples N] [--operation NAME]\n"
"             [--cpu-percent P]\n"
"  --cpu-percent P  khugepaged has this share of a CPU; without, it goes on to the end\n";

struct operation {
	const char *name;
	/* by another process, which the victim has forked before it had much memory */
	bool by_sibling;
	/* what it costs depends on what has been collapsed: see repeat() */
	bool repeat;
	/* the first smallest part of each 2 MiB has holes, and is not collapsed */
	bool holes;
	void (*run)(void);
	/* not measured: makes the operation possible again */
	void (*tidy)(void);
};

/* What the sibling sees too. */
struct shared {
	const struct operation *operation;
	bool khugepaged_on;
	clockid_t khugepaged_clock;
	size_t wanted;
	size_t nr;
	/* from the instant at which it was due, and from when it began */
	int64_t whole[MAX_SAMPLES];
	int64_t alone[MAX_SAMPLES];
	int64_t repeated[MAX_SAMPLES];
	/* what the operation costs with khugepaged off, the median */
	int64_t usual;
};

static struct shared *shared;
static unsigned long page_size, pmd_size, size = 32UL << 20, folio_kib, cpu_percent;

/* Is collapsed; and a page table behind it in the same VMA, which is not. */
static struct address_range memory, beside;
static struct address_range other_vma;
/* A page of each PMD of the memory, as it was populated, and where khugepaged is. */
static unsigned long watched_pfns[MAX_PMDS], front;
static int kpageflags_fd, khugepaged;
static unsigned int random_state = 1;

static int sibling_orders, sibling_answers;
static char smaps_path[64];

static sem_t burner_start;
static volatile bool burning;

static unsigned int next_random(void)
{
	random_state = random_state * 1103515245 + 12345;
	return random_state >> 8;
}

/* It stands where khugepaged would be preempted: the CPU must not wake from idle. */
static void *burn(void *arg)
{
	(void)arg;
	if (sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 }))
		err(2, "sched_setscheduler");
	for (;;) {
		sem_wait(&burner_start);
		while (burning)
			;
	}
	return NULL;
}

/* There in both cases, as a process with threads is not quite like one without. */
static void start_burner(void)
{
	pthread_t thread;
	int error;

	sem_init(&burner_start, 0, 0);
	error = pthread_create(&thread, NULL, burn, NULL);
	if (error)
		errx(2, "a thread: %s", strerror(error));
}

static void touch(unsigned long address)
{
	*(volatile char *)address = 1;
}

static void forget(unsigned long address)
{
	if (madvise((void *)address, page_size, MADV_DONTNEED))
		err(2, "MADV_DONTNEED");
}

/*
 * Where khugepaged is: the first PMD with a page that is still there. A page in
 * the middle of the last 64K is seldom used again before the next is looked at.
 * No lock of the process is needed for this, unlike for its page map. It is
 * measured too: 959 instructions for a look, and one more for each PMD that was
 * collapsed since the last time.
 */
static unsigned long front_pmd(void)
{
	unsigned long nr = (memory.end - memory.start) / pmd_size;
	uint64_t flags;

	for (; front < nr - 1; front++) {
		if (pread(kpageflags_fd, &flags, sizeof(flags),
			  watched_pfns[front] * sizeof(flags)) != sizeof(flags))
			err(2, "/proc/kpageflags");
		if (flags & (1ULL << KPF_ANON))
			break;
	}
	return memory.start + front * pmd_size;
}

/*
 * The faults get one base page, as the first page of each place for a folio is
 * there.
 */
static void fault_other_table(void)
{
	touch(beside.start + page_size);
}

static void tidy_other_table(void)
{
	forget(beside.start + page_size);
}

static void fault_other_vma(void)
{
	touch(other_vma.start + page_size);
}

static void tidy_other_vma(void)
{
	forget(other_vma.start + page_size);
}

static void fault_same_table(void)
{
	touch(front_pmd() + page_size);
}

static void tidy_same_table(void)
{
	forget(memory.start + front * pmd_size + page_size);
}

static void write_in_flight(void)
{
	touch(front_pmd() + next_random() % (pmd_size / page_size) * page_size);
}

static void map_and_unmap(void)
{
	/* Another protection than all else, so that it is not merged with anything. */
	void *area = mmap(NULL, SMALL_AREA, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED || munmap(area, SMALL_AREA))
		err(2, "mapping a small area");
}

static void protect_last_page(int protection)
{
	if (mprotect((void *)(beside.end - page_size), page_size, protection))
		err(2, "mprotect");
}

static void protect(void)
{
	protect_last_page(PROT_READ);
}

/* The VMA is as it was again. */
static void unprotect(void)
{
	protect_last_page(PROT_READ | PROT_WRITE);
}

static void do_fork(void)
{
	int pid = fork();

	if (pid < 0)
		err(2, "fork");
	if (!pid)
		_exit(0);
}

static void reap(void)
{
	if (wait(NULL) < 0)
		err(2, "wait");
}

static void read_smaps(void)
{
	static char text[65536];
	int fd = open(smaps_path, O_RDONLY);
	ssize_t got;

	if (fd < 0)
		err(2, "%s", smaps_path);
	while ((got = read(fd, text, sizeof(text))) > 0)
		;
	if (got < 0)
		err(2, "%s", smaps_path);
	close(fd);
}

static void nothing(void)
{
}

static const struct operation operations[] = {
	{ .name = "fault_other_table", .run = fault_other_table, .tidy = tidy_other_table },
	{ .name = "fault_other_vma", .run = fault_other_vma, .tidy = tidy_other_vma },
	{ .name = "fault_same_table", .run = fault_same_table, .tidy = tidy_same_table,
	  .holes = true },
	{ .name = "write_in_flight", .run = write_in_flight, .tidy = nothing },
	{ .name = "mmap_munmap", .run = map_and_unmap, .tidy = nothing },
	{ .name = "mprotect", .run = protect, .tidy = unprotect },
	{ .name = "fork", .run = do_fork, .tidy = reap, .repeat = true },
	{ .name = "sibling_fork", .run = do_fork, .tidy = reap, .by_sibling = true },
	{ .name = "smaps", .run = read_smaps, .tidy = nothing, .by_sibling = true,
	  .repeat = true },
};

#define NR_OPERATIONS	(sizeof(operations) / sizeof(operations[0]))

/*
 * What fork() and smaps cost by themselves changes while memory is collapsed. So
 * each is done again at once, when khugepaged can't run in between, and counts
 * as if it had cost by itself what it costs with khugepaged off.
 */
static int64_t repeat(const struct operation *operation)
{
	uint64_t start = nanoseconds(CLOCK_MONOTONIC);

	operation->run();
	start = nanoseconds(CLOCK_MONOTONIC) - start;
	operation->tidy();
	return start;
}

/*
 * Have the kernel put new pages on the LRU. Every 31st fault has to do that, for
 * ten times what it costs else, unless khugepaged does it: so it would be in the
 * zero line alone.
 */
static void drain_lru(void)
{
	if (madvise((void *)(other_vma.start + page_size), page_size, MADV_COLD))
		err(2, "MADV_COLD");
}

/* Does the operation time and again: while khugepaged runs, or as often as wanted. */
static void probe(void)
{
	const struct operation *operation = shared->operation;
	size_t nr = shared->nr, first = nr;
	unsigned int idle = 0;

	if (!shared->khugepaged_on) {
		burning = true;
		sem_post(&burner_start);
	}
	while (nr < shared->wanted && idle < IDLE_PROBES) {
		uint64_t ran = nanoseconds(shared->khugepaged_clock), due, start, end;
		struct timespec until;
		int64_t adjust = 0;

		due = nanoseconds(CLOCK_MONOTONIC) + SLEEP_NANOSECONDS +
		      next_random() % SLEEP_MORE_NANOSECONDS;
		until.tv_sec = due / 1000000000;
		until.tv_nsec = due % 1000000000;
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
			;
		start = nanoseconds(CLOCK_MONOTONIC);
		operation->run();
		end = nanoseconds(CLOCK_MONOTONIC);
		operation->tidy();
		if (operation->repeat) {
			shared->repeated[nr] = repeat(operation);
			if (shared->khugepaged_on)
				adjust = shared->usual - shared->repeated[nr];
		}
		drain_lru();
		if (shared->khugepaged_on && nanoseconds(shared->khugepaged_clock) == ran) {
			idle++;
			continue;
		}
		idle = 0;
		shared->whole[nr] = (int64_t)(end - due) + adjust;
		shared->alone[nr++] = (int64_t)(end - start) + adjust;
	}
	/* khugepaged may have been done already when the last one was due. */
	if (idle && nr > first)
		nr--;
	shared->nr = nr;
	burning = false;
}

/* Keeps one page of the victim's memory, and with it the root of its anon_vma. */
static void be_sibling(int orders, int answers)
{
	char letter;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (munmap((void *)memory.start, memory.end - memory.start) ||
	    munmap((void *)(beside.start + page_size), beside.end - beside.start - page_size))
		err(2, "munmap");
	start_burner();
	while (read(orders, &letter, 1) == 1) {
		probe();
		if (write(answers, &letter, 1) != 1)
			err(2, "answering");
	}
	_exit(0);
}

static void start_sibling(void)
{
	int orders[2], answers[2], pid;

	snprintf(smaps_path, sizeof(smaps_path), "/proc/%d/smaps", getpid());
	if (pipe(orders) || pipe(answers))
		err(2, "pipe");
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (!pid) {
		close(orders[1]);
		close(answers[0]);
		be_sibling(orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	sibling_orders = orders[1];
	sibling_answers = answers[0];
}

static void let_probe(void)
{
	char letter = 'p';

	if (!shared->operation->by_sibling)
		probe();
	else if (write(sibling_orders, &letter, 1) != 1 || read(sibling_answers, &letter, 1) != 1)
		errx(2, "the sibling has gone");
}

static void watch_pfns(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	unsigned long offset, nr = 0;
	uint64_t entry;

	if (fd < 0)
		err(2, "/proc/self/pagemap");
	for (offset = pmd_size - 8 * page_size; offset < memory.end - memory.start;
	     offset += pmd_size) {
		if (pread(fd, &entry, sizeof(entry), (memory.start + offset) / page_size *
			  sizeof(entry)) != sizeof(entry))
			err(2, "/proc/self/pagemap");
		watched_pfns[nr++] = entry & ((1ULL << 55) - 1);
	}
	close(fd);
	front = 0;
}

/* The memory is in base pages, whatever it was before. */
static void populate(bool holes)
{
	unsigned long address, in_pmd;

	if (madvise((void *)memory.start, beside.end - memory.start, MADV_NOHUGEPAGE) ||
	    madvise((void *)memory.start, memory.end - memory.start, MADV_DONTNEED))
		err(2, "madvise");
	for (address = memory.start; address < memory.end; address += page_size) {
		in_pmd = (address - memory.start) % pmd_size;
		if (!holes || !in_pmd || in_pmd >= folio_kib * 1024)
			touch(address);
	}
	/* A new page can be written to; one that was forked before, not at once. */
	if (shared->operation->run == do_fork && !shared->operation->by_sibling) {
		do_fork();
		reap();
	}
	watch_pfns();
}

static void start_khugepaged(void)
{
	if (madvise((void *)memory.start, beside.end - memory.start, MADV_HUGEPAGE))
		err(2, "MADV_HUGEPAGE");
	/* Ends a sleep. With a share, this is a wake of one slice. */
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
}

static void print_distribution(const char *suffix, int64_t *times)
{
	const char *name = shared->operation->name;
	size_t nr = shared->nr, i;
	long long median, p99, longest;

	/* What is below zero, by the adjustment, is no wait. */
	for (i = 0; i < nr; i++) {
		if (times[i] < 0)
			times[i] = 0;
	}
	sort_numbers((uint64_t *)times, nr);
	median = times[nr / 2];
	p99 = times[nr * 99 / 100];
	longest = times[nr - 1];
	printf("waits %s%s: samples %zu median %lld p99 %lld longest %lld\n", name, suffix, nr,
	       median, p99, longest);
	printf("%s%s_samples,%zu\n", name, suffix, nr);
	printf("%s%s_median,%lld\n", name, suffix, median);
	printf("%s%s_p99,%lld\n", name, suffix, p99);
	printf("%s%s_longest,%lld\n", name, suffix, longest);
	fflush(stdout);
}

/* How much of the memory is in folios of the size now. */
static unsigned long collapsed_kib(void)
{
	return read_size(folio_kib, "stats/nr_anon") * folio_kib;
}

static void measure(const struct operation *operation, size_t samples)
{
	unsigned long passes = 0, empty = 0, kib = 0;
	size_t before;

	shared->operation = operation;
	shared->wanted = samples;
	if (cpu_percent) {
		write_file(THP "khugepaged/cpu_percent", "0");
		wait_until_idle(khugepaged);
	}

	shared->khugepaged_on = false;
	shared->nr = 0;
	populate(operation->holes);
	let_probe();
	print_distribution("_off", shared->whole);
	print_distribution("_off_alone", shared->alone);
	if (operation->repeat) {
		sort_numbers((uint64_t *)shared->repeated, shared->nr);
		shared->usual = shared->repeated[shared->nr / 2];
	}

	shared->khugepaged_on = true;
	shared->nr = 0;
	if (cpu_percent)
		write_file(THP "khugepaged/cpu_percent", "%lu", cpu_percent);
	while (shared->nr < samples) {
		before = shared->nr;
		populate(operation->holes);
		start_khugepaged();
		let_probe();
		/* The last pass ends early. */
		if (shared->nr < samples) {
			kib += collapsed_kib();
			passes++;
		}
		empty = shared->nr == before ? empty + 1 : 0;
		if (empty == MAX_EMPTY_PASSES)
			errx(3, "%s: khugepaged did not run", operation->name);
	}
	print_distribution("", shared->whole);
	print_distribution("_alone", shared->alone);
	if (!passes || !kib)
		errx(3, "%s: khugepaged collapsed nothing in %lu passes", operation->name, passes);
	printf("%s_passes,%lu\n", operation->name, passes);
	printf("%s_collapsed_percent,%lu\n", operation->name, kib * 100 / (size / 1024 * passes));
}

static void prepare(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		err(2, "mapping memory");
	/* No first fault on what is written while it is measured. */
	memset(shared, 0, sizeof(*shared));

	memory = map_memory(size + pmd_size, pmd_size);
	beside.end = memory.end;
	memory.end -= pmd_size;
	beside.start = memory.end;
	other_vma = map_memory(pmd_size, pmd_size);
	/* The VMA has the shape that it keeps, and its anon_vma, before the fork. */
	if (madvise((void *)memory.start, beside.end - memory.start, MADV_NOHUGEPAGE) ||
	    madvise((void *)other_vma.start, pmd_size, MADV_NOHUGEPAGE))
		err(2, "MADV_NOHUGEPAGE");
	touch(beside.start);
	start_sibling();
	touch(beside.start);
	touch(beside.end - page_size);
	touch(other_vma.start);
	start_burner();
	kpageflags_fd = open("/proc/kpageflags", O_RDONLY);
	if (kpageflags_fd < 0)
		err(2, "/proc/kpageflags");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "folio-kib", required_argument, NULL, 'f' },
		{ "size-mib", required_argument, NULL, 's' },
		{ "samples", required_argument, NULL, 'n' },
		{ "operation", required_argument, NULL, 'o' },
		{ "cpu-percent", required_argument, NULL, 'c' },
		{ }
	};
	const char *only = NULL;
	size_t samples = 2048, i;
	bool any = false;
	char state;
	int option;

	page_size = sysconf(_SC_PAGESIZE);
	pmd_size = read_number(THP "hpage_pmd_size");
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'f':
			folio_kib = parse_number(optarg);
			break;
		case 's':
			size = parse_number(optarg) << 20;
			break;
		case 'n':
			samples = parse_number(optarg);
			break;
		case 'o':
			only = optarg;
			break;
		case 'c':
			cpu_percent = parse_number(optarg);
			break;
		default:
			errx(2, "%s", usage);
		}
	}
	if (optind != argc || !folio_kib || !size || size % pmd_size ||
	    size / pmd_size > MAX_PMDS || !samples || samples > MAX_SAMPLES)
		errx(2, "%sMIB is a multiple of %lu, of up to %d PMDs; N is up to %d", usage,
		     pmd_size >> 20, MAX_PMDS, MAX_SAMPLES);
	if (sysconf(_SC_NPROCESSORS_ONLN) != 1)
		errx(2, "boot with one CPU");

	become_first();
	check_clock_counts_instructions();
	all_sizes_off();
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	write_file(THP "khugepaged/pages_to_scan", "%d", 1 << 30);
	write_file(THP "khugepaged/max_ptes_none", "0");
	prepare();

	write_size(folio_kib, "enabled", "madvise");
	sleep_milliseconds(100);
	khugepaged = find_khugepaged(&state);
	if (!khugepaged)
		errx(3, "khugepaged does not run with only %lu KiB on: this kernel does not collapse to it",
		     folio_kib);
	wait_until_idle(khugepaged);
	shared->khugepaged_clock = cpu_clock_of(khugepaged);

	for (i = 0; i < NR_OPERATIONS; i++) {
		if (only && strcmp(operations[i].name, only))
			continue;
		any = true;
		/* Memory of PMD size has nothing beside it in its table. */
		if (operations[i].holes && folio_kib * 1024 >= pmd_size)
			continue;
		measure(&operations[i], samples);
	}
	if (!any)
		errx(2, "'%s' is no operation\n%s", only, usage);
	return 0;
}
