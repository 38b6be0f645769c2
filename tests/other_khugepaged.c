// SPDX-License-Identifier: GPL-2.0
/*
 * A process that calls itself khugepaged, and collapses memory of its own every
 * 100 ms: thptop must not take it for the thread.
 */
#define _GNU_SOURCE
#include <err.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SIZE	(2UL << 20)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

int main(void)
{
	char *area, *memory;

	if (prctl(PR_SET_NAME, "khugepaged"))
		err(1, "the name");
	area = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		err(1, "mmap");
	memory = area + SIZE - (unsigned long)area % SIZE;
	for (;;) {
		memset(memory, 1, SIZE);
		if (madvise(memory, SIZE, MADV_COLLAPSE))
			err(1, "MADV_COLLAPSE");
		if (madvise(memory, SIZE, MADV_DONTNEED))
			err(1, "MADV_DONTNEED");
		usleep(100000);
	}
}
