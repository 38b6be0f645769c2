// SPDX-License-Identifier: GPL-2.0
/*
 * Has memory in folios that are known, and keeps it until standard input ends.
 *
 * usage: known_folios KIB:MIB[:lower|:upper|:shifted]...
 *
 * For each argument MIB of memory are populated by page faults in folios of KIB
 * (that of a base page: none), in an area that begins at a PMD and has nothing
 * beside it. Of each folio (of each 8 base pages) only the lower or upper half is
 * kept, or all of it is moved by one page. The sizes' "enabled" are "never"
 * afterwards, and khugepaged, which runs while one is not, may have the memory
 * only then. Then it says "ready".
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THP	"/sys/kernel/mm/transparent_hugepage/"
#define MIB	(1024 * 1024UL)

static void enable(unsigned long kib, const char *when)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), THP "hugepages-%lukB/enabled", kib);
	file = fopen(path, "w");
	if (!file || fputs(when, file) == EOF || fclose(file))
		err(2, "%s", path);
}

static unsigned long pmd_size(void)
{
	FILE *file = fopen(THP "hpage_pmd_size", "r");
	unsigned long size;

	if (!file || fscanf(file, "%lu", &size) != 1)
		err(2, THP "hpage_pmd_size");
	fclose(file);
	return size;
}

/* Address space that begins at a PMD, with nothing else around it. */
static char *reserve(unsigned long size)
{
	unsigned long pmd = pmd_size();
	char *area = mmap(NULL, size + 3 * pmd, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		err(2, "mmap");
	return area + pmd - (unsigned long)area % pmd;
}

static void advise(char *area, unsigned long size, int advice)
{
	if (madvise(area, size, advice))
		err(2, "madvise");
}

/* Returns the area. */
static char *populate(unsigned long kib, unsigned long size, const char *how)
{
	unsigned long page = sysconf(_SC_PAGESIZE), offset, half;
	bool large = kib * 1024 > page;
	char *area = reserve(size);

	if (mprotect(area, size, PROT_READ | PROT_WRITE))
		err(2, "mprotect");
	if (large) {
		/* khugepaged must not have other memory of this process meanwhile. */
		advise(area, size, MADV_HUGEPAGE);
		enable(kib, "madvise");
	}
	for (offset = 0; offset < size; offset += page)
		area[offset] = 1;
	if (large)
		enable(kib, "never");

	half = large ? kib * 1024 / 2 : 4 * page;
	for (offset = 0; (!strcmp(how, "lower") || !strcmp(how, "upper")) &&
	     offset < size; offset += 2 * half) {
		if (madvise(area + offset + (*how == 'l' ? half : 0), half, MADV_DONTNEED))
			err(2, "MADV_DONTNEED");
	}
	advise(area, size, MADV_NOHUGEPAGE);
	if (!strcmp(how, "shifted")) {
		area = mremap(area, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
			      reserve(size) + page);
		if (area == MAP_FAILED)
			err(2, "mremap");
	}
	return area;
}

int main(int argc, char **argv)
{
	unsigned long kib, mib;
	char **areas = calloc(argc, sizeof(*areas));
	char how[8];
	int i;

	if (!areas)
		err(2, "memory for areas");

	for (i = 1; i < argc; i++) {
		*how = '\0';
		if (sscanf(argv[i], "%lu:%lu:%7s", &kib, &mib, how) < 2 || !kib ||
		    (*how && !strstr("lower upper shifted", how)))
			errx(2, "'%s' is not KIB:MIB[:lower|:upper|:shifted]", argv[i]);
		areas[i] = populate(kib, mib * MIB, how);
	}
	for (i = 1; i < argc; i++) {
		sscanf(argv[i], "%lu:%lu", &kib, &mib);
		advise(areas[i], mib * MIB, MADV_HUGEPAGE);
	}
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
