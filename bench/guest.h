/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs of bench/ share: the knobs of huge pages, khugepaged and
 * its clock, aging, counters. Every one of them ends the program on an error.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "folio_map.h"

struct perf_event_mmap_page;

#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define NEXT_WAKE_MILLISECONDS (24 * 3600 * 1000)

unsigned long parse_number(const char *text);

__attribute__((format(printf, 2, 3)))
void write_file(const char *path, const char *format, ...);
unsigned long read_number(const char *path);
/* The number after @name in a file of lines "name number"; -1 if there is none. */
long read_field(const char *path, const char *name);

void all_sizes_off(void);
/* The file @name of the folder of one size. */
void write_size(unsigned long folio_kib, const char *name, const char *value);
unsigned long read_size(unsigned long folio_kib, const char *name);

struct found_process {
	int pid;
	char state;
};

/* Calls @found for each process of this name, until it returns false. */
void each_process(const char *name, bool (*found)(const struct found_process *process, void *arg), void *arg);
/* The pid of khugepaged, or 0; its state letter goes to @state. */
int find_khugepaged(char *state);
/* Waits until it sleeps and its clock stands still, looking once in a while. */
void wait_until_idle(int pid);
void wait_until_idle_for(int pid, unsigned int milliseconds);
void sleep_milliseconds(unsigned int milliseconds);

uint64_t nanoseconds(clockid_t clock);
clockid_t cpu_clock_of(int pid);
/* Ends the program unless a nanosecond is an instruction. */
void check_clock_counts_instructions(void);

/* This program goes before all others, khugepaged among them, while it runs. */
void become_first(void);

/* Counts a tracepoint in the thread @pid, from now on. */
int open_tracepoint(const char *tracepoint, const char *filter, int pid);
uint64_t tracepoint_count(int fd);

/* When a tracepoint was hit in the thread @pid: up to RECORDED_TIMES times. */
#define RECORDED_TIMES	(64 * 1024)
struct recording {
	int fd;
	struct perf_event_mmap_page *ring;
};
void record_tracepoint(struct recording *recording, const char *tracepoint,
		       const char *filter, int pid);
/* Moves what was recorded since the last call to @times; gives how many. */
size_t take_recorded_times(struct recording *recording, uint64_t times[RECORDED_TIMES]);

/* Sorts numbers, smallest first. */
void sort_numbers(uint64_t *numbers, size_t nr);

/* One walk of the multi-gen LRU over all memory; gives the instructions of it. */
uint64_t age_memory(void);

/* Anonymous memory that starts at a PMD. */
struct address_range map_memory(unsigned long size, unsigned long pmd_size);

/* The counters of collapse hints, as lines "name,value". */
void print_hint_counters(void);

#endif
