// SPDX-License-Identifier: GPL-2.0
/*
 * Keys and values for redis that can be made again from their numbers:
 * what the demo fills redis with, asks for, and checks the answers against.
 */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_LENGTH	128
#define MAX_LENGTH	4096
#define KEYS_PER_QUESTION 64

static const char usage[] =
"usage: values fill FIRST COUNT    the keys as input for redis-cli --pipe\n"
"       values ask FIRST COUNT     the questions for them as input for redis-cli\n"
"       values check FIRST COUNT   compares redis-cli's answers on standard input\n";

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Fills @value with letters; gives its length. */
static size_t make_value(unsigned long number, char *value)
{
	uint64_t state = (number + 1) * 0x9e3779b97f4a7c15ULL;
	size_t length, i;

	next_random(&state);
	length = MIN_LENGTH + next_random(&state) % (MAX_LENGTH - MIN_LENGTH);
	for (i = 0; i < length; i += sizeof(uint64_t)) {
		uint64_t letters = (next_random(&state) & 0x0f0f0f0f0f0f0f0fULL) +
				   0x6161616161616161ULL;

		memcpy(value + i, &letters, sizeof(letters));
	}
	return length;
}

static void fill(unsigned long first, unsigned long count)
{
	char value[MAX_LENGTH + sizeof(uint64_t)], key[32];
	unsigned long number;

	for (number = first; number < first + count; number++) {
		size_t length = make_value(number, value);
		int key_length = snprintf(key, sizeof(key), "key:%lu", number);

		printf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%zu\r\n", key_length, key, length);
		fwrite(value, 1, length, stdout);
		fputs("\r\n", stdout);
	}
}

static void ask(unsigned long first, unsigned long count)
{
	unsigned long i;

	for (i = 0; i < count; i++) {
		if (i % KEYS_PER_QUESTION == 0)
			fputs(i ? "\nMGET" : "MGET", stdout);
		printf(" key:%lu", first + i);
	}
	putchar('\n');
}

static int check(unsigned long first, unsigned long count)
{
	char value[MAX_LENGTH + sizeof(uint64_t)];
	unsigned long number, right = 0;
	char *line = NULL;
	size_t size = 0;
	ssize_t got;

	for (number = first; number < first + count; number++) {
		ssize_t length = make_value(number, value);

		got = getline(&line, &size, stdin);
		if (got == length + 1 && !memcmp(line, value, length))
			right++;
		else if (right == number - first)
			fprintf(stderr, "values: key:%lu is the first that is wrong\n", number);
	}
	if (getline(&line, &size, stdin) != -1) {
		fprintf(stderr, "values: more answers than questions\n");
		return 1;
	}
	printf("%lu of %lu\n", right, count);
	return right != count;
}

int main(int argc, char **argv)
{
	unsigned long first, count;
	int status = 0;

	if (argc != 4) {
		fputs(usage, stderr);
		return 2;
	}
	first = strtoul(argv[2], NULL, 10);
	count = strtoul(argv[3], NULL, 10);
	if (!count)
		errx(2, "'%s' is not a number of keys", argv[3]);

	if (!strcmp(argv[1], "fill"))
		fill(first, count);
	else if (!strcmp(argv[1], "ask"))
		ask(first, count);
	else if (!strcmp(argv[1], "check"))
		status = check(first, count);
	else
		errx(2, "'%s': not fill, ask or check", argv[1]);
	if (fflush(stdout) || ferror(stdout))
		err(2, "writing");
	return status;
}
