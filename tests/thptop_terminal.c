// SPDX-License-Identifier: GPL-2.0
/*
 * Does thptop behave on a terminal: resized, stopped, sent to the background,
 * and ended by a key or a signal, also in the middle of a census or of a write
 * that nobody reads? And does a census that takes long not hold up a refresh?
 * This is what a shell with job control is for thptop.
 *
 * usage: thptop_terminal [THPTOP]
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* A page in each PMD range of it: nothing takes a census so long for so little. */
#define SPARSE_SIZE	(64UL << 30)
#define SPARSE_STEP	(2UL << 20)
#define CSV		"/tmp/thptop_terminal.csv"

/* For what happens in milliseconds, and on a busy machine some time. */
#define PATIENCE	100

static const char *program = "thptop";
static int master, slave;
static pid_t sparse, child;
static int status;
static char output[1 << 20];
static size_t output_len;
static unsigned int nr, nr_failed;

static void check(bool right, const char *name)
{
	printf("%s %u %s\n", right ? "ok" : "not ok", ++nr, name);
	nr_failed += !right;
}

static double seconds(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void read_output(void)
{
	ssize_t got;

	while ((got = read(master, output + output_len, sizeof(output) - 1 - output_len)) > 0) {
		output_len += got;
		if (output_len > sizeof(output) / 2)
			output_len = 0;
	}
	output[output_len] = '\0';
}

static void forget_output(void)
{
	read_output();
	output_len = 0;
	output[0] = '\0';
}

static bool is_drawn(void)
{
	read_output();
	return strstr(output, "looked at");
}

static bool is_raw(void)
{
	struct termios termios;

	if (tcgetattr(slave, &termios))
		err(1, "tcgetattr");
	return !(termios.c_lflag & (ICANON | ECHO));
}

static bool is_cooked(void)
{
	struct termios termios;

	if (tcgetattr(slave, &termios))
		err(1, "tcgetattr");
	return (termios.c_lflag & ICANON) && (termios.c_lflag & ECHO);
}

/* It has the page map of the sparse process open. */
static bool is_in_census(void)
{
	char folder[32], wanted[32], path[300], link[64];
	struct dirent *entry;
	bool found = false;
	ssize_t len;
	DIR *fds;

	snprintf(folder, sizeof(folder), "/proc/%d/fd", child);
	snprintf(wanted, sizeof(wanted), "/proc/%d/pagemap", sparse);
	fds = opendir(folder);
	while (fds && !found && (entry = readdir(fds))) {
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		len = readlink(path, link, sizeof(link) - 1);
		link[len > 0 ? len : 0] = '\0';
		found = !strcmp(link, wanted);
	}
	if (fds)
		closedir(fds);
	return found;
}

static bool is_in_write(void)
{
	unsigned long call, fd;
	bool found = false;
	char path[32];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/syscall", child);
	file = fopen(path, "re");
	if (file) {
		found = fscanf(file, "%lu %lx", &call, &fd) == 2 &&
			call == SYS_write && fd == STDOUT_FILENO;
		fclose(file);
	}
	return found;
}

/* A key gets through the terminal in its own time. */
static bool has_key_or_signal(void)
{
	struct pollfd keys = { .fd = slave, .events = POLLIN };
	unsigned long long pending = 0;
	char path[32], line[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", child);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file) &&
	       sscanf(line, "ShdPnd: %llx", &pending) != 1)
		;
	if (file)
		fclose(file);
	return pending || poll(&keys, 1, 0) > 0;
}

/* What is waited for may never come in a program that is wrong. */
static bool wait_for(bool (*condition)(void), bool read_meanwhile)
{
	double end = seconds() + PATIENCE;

	while (!condition()) {
		if (seconds() > end)
			return false;
		if (read_meanwhile)
			read_output();
		usleep(1000);
	}
	return true;
}

static bool is_changed(void)
{
	return waitpid(child, &status, WNOHANG | WUNTRACED) == child;
}

static bool is_exited(void)
{
	return is_changed() && !WIFSTOPPED(status);
}

static bool stops(void)
{
	return wait_for(is_changed, true) && WIFSTOPPED(status);
}

static bool ends_well(bool read_meanwhile)
{
	bool is_ended = wait_for(is_exited, read_meanwhile);

	if (!is_ended) {
		kill(child, SIGKILL);
		kill(child, SIGCONT);
		waitpid(child, &status, 0);
	}
	return is_ended && WIFEXITED(status) && !WEXITSTATUS(status);
}

static void press(char key)
{
	if (write(master, &key, 1) != 1)
		err(1, "write a key");
}

static void set_foreground(pid_t group)
{
	if (tcsetpgrp(slave, group))
		err(1, "tcsetpgrp");
}

static void start(const char *delay, const char *budget, const char *processes)
{
	const char *option = processes ? "-p" : "-m";
	struct termios termios;

	if (tcgetattr(slave, &termios))
		err(1, "tcgetattr");
	termios.c_lflag |= ICANON | ECHO | ISIG;
	tcsetattr(slave, TCSANOW, &termios);
	forget_output();
	remove(CSV);
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (!child) {
		setpgid(0, 0);
		set_foreground(getpid());
		/* As a shell does it. What runs in the background of a script ignores the keys' signals. */
		signal(SIGTTOU, SIG_DFL);
		signal(SIGHUP, SIG_DFL);
		signal(SIGINT, SIG_DFL);
		signal(SIGQUIT, SIG_DFL);
		dup2(slave, STDIN_FILENO);
		dup2(slave, STDOUT_FILENO);
		dup2(slave, STDERR_FILENO);
		execlp(program, program, "-d", delay, "-s", budget, "-o", CSV,
		       option, processes ? processes : "0", NULL);
		err(1, "%s", program);
	}
	setpgid(child, child);
}

static bool has_recorded(const char *text)
{
	FILE *file = fopen(CSV, "re");
	bool found = false;
	char line[256];

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, text);
	if (file)
		fclose(file);
	return found;
}

/* Stops it in a census of all of the sparse process. */
static bool stop_in_census(void)
{
	char pid[16];
	int tries;

	snprintf(pid, sizeof(pid), "%d", sparse);
	for (tries = 0; tries < 20; tries++) {
		start("1000", "0", pid);
		if (wait_for(is_in_census, true)) {
			kill(child, SIGSTOP);
			if (stops() && is_in_census())
				return true;
		}
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
	return false;
}

static void test_ends_in_census(char key, int signal, const char *name)
{
	char text[64];

	if (!stop_in_census()) {
		check(false, "stopped in a census");
		return;
	}
	if (key)
		press(key);
	else
		kill(child, signal);
	check(wait_for(has_key_or_signal, true), "it gets there while it is stopped");
	kill(child, SIGCONT);
	snprintf(text, sizeof(text), "%s ends it in a census", name);
	check(ends_well(true), text);
	snprintf(text, sizeof(text), "%s: not at the census' end", name);
	check(!has_recorded(",process,"), text);
	check(is_cooked(), "the terminal is as before");
}

static void test_ctrl_z(void)
{
	start("0.1", "1", NULL);
	check(wait_for(is_raw, true) && wait_for(is_drawn, true), "it draws, and has the keys");
	press('Z' & 0x1f);
	check(stops() && WSTOPSIG(status) == SIGTSTP, "ctrl-Z stops it");
	check(is_cooked(), "ctrl-Z gives the terminal back");

	set_foreground(getpgrp());
	kill(child, SIGCONT);
	check(stops() && WSTOPSIG(status) == SIGTTOU, "in the background it stops again");
	check(is_cooked(), "and leaves the terminal alone");

	set_foreground(child);
	forget_output();
	kill(child, SIGCONT);
	check(wait_for(is_raw, true) && wait_for(is_drawn, true), "in the foreground it goes on");
	press('Z' & 0x1f);
	check(stops() && is_cooked(), "ctrl-Z works once more");
	kill(child, SIGCONT);
	wait_for(is_raw, true);
	press('q');
	check(ends_well(true), "q ends it");
	check(is_cooked(), "the terminal is as before");
}

static void test_ctrl_z_in_census(void)
{
	bool is_stopped = false;
	int tries;

	/* SIGCONT discards what would stop it: the key comes later, maybe too late. */
	for (tries = 0; tries < 20 && !is_stopped; tries++) {
		if (!stop_in_census())
			break;
		kill(child, SIGCONT);
		press('Z' & 0x1f);
		is_stopped = stops() && WSTOPSIG(status) == SIGTSTP && is_in_census();
		if (!is_stopped) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
		}
	}
	check(is_stopped, "ctrl-Z stops it in a census");
	check(is_cooked(), "ctrl-Z gives the terminal back");
	if (!is_stopped)
		return;
	kill(child, SIGCONT);
	check(wait_for(is_drawn, true), "the census is finished later");
	press('C' & 0x1f);
	check(ends_well(true), "ctrl-C ends it");
}

static bool is_half_done(void)
{
	read_output();
	return strstr(output, "looked at 0 of 1");
}

static bool is_done(void)
{
	read_output();
	return strstr(output, "looked at 1 of 1");
}

static void test_long_census(void)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", sparse);
	start("0.1", "1000000", pid);
	check(wait_for(is_drawn, true) && is_half_done(), "a refresh does not wait for a long census");
	check(wait_for(is_done, true), "which goes on, and comes to its end");
	press('q');
	check(ends_well(true), "q ends it");
}

static void test_redraw(void)
{
	struct winsize size = { .ws_row = 30, .ws_col = 120 };

	start("1000", "1", NULL);
	check(wait_for(is_drawn, true), "it draws");
	usleep(300000);
	forget_output();
	ioctl(master, TIOCSWINSZ, &size);
	check(wait_for(is_drawn, true), "a resize has it draw before its time");
	press('C' & 0x1f);
	check(ends_well(true), "ctrl-C ends it");
}

/* Nobody reads: a terminal that is stopped, or far away. */
static void test_full_terminal(void)
{
	struct winsize size = { .ws_row = 50, .ws_col = 200 };
	int i;

	start("0.1", "1", NULL);
	check(wait_for(is_in_write, false), "a write waits");
	for (i = 0; i < 4; i++) {
		size.ws_row++;
		ioctl(master, TIOCSWINSZ, &size);
		usleep(20000);
	}
	forget_output();
	check(wait_for(is_drawn, true) && !is_changed(), "four times resized, it goes on");

	check(wait_for(is_in_write, false), "a write waits again");
	kill(child, SIGTSTP);
	check(wait_for(is_changed, false) && WIFSTOPPED(status) && is_cooked(),
	      "SIGTSTP stops it there");
	kill(child, SIGCONT);
	forget_output();
	check(wait_for(is_drawn, true) && !is_changed(), "and it goes on");

	check(wait_for(is_in_write, false), "a write waits again");
	kill(child, SIGTERM);
	check(ends_well(false), "SIGTERM ends it there");
	check(is_cooked(), "the terminal is as before");
}

static void open_terminal(void)
{
	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (master < 0 || grantpt(master) || unlockpt(master))
		err(1, "a pty");
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0 || ioctl(slave, TIOCSCTTY, 0))
		err(1, "%s", ptsname(master));
	signal(SIGTTOU, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
}

static void start_sparse(void)
{
	char *memory, *at;
	int ready[2];

	if (pipe(ready))
		err(1, "pipe");
	sparse = fork();
	if (sparse < 0)
		err(1, "fork");
	if (!sparse) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memory = mmap(NULL, SPARSE_SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory == MAP_FAILED || madvise(memory, SPARSE_SIZE, MADV_NOHUGEPAGE))
			err(1, "sparse memory");
		/* Page tables for the zero page, which is no memory. */
		for (at = memory; at < memory + SPARSE_SIZE; at += SPARSE_STEP)
			*(volatile char *)at;
		if (write(ready[1], "", 1) != 1)
			err(1, "pipe");
		pause();
		_exit(0);
	}
	close(ready[1]);
	if (read(ready[0], &(char){0}, 1) != 1)
		errx(1, "no sparse memory");
	close(ready[0]);
}

int main(int argc, char **argv)
{
	pid_t session = fork();

	if (argc > 1)
		program = argv[1];
	if (session < 0)
		err(1, "fork");
	if (session) {
		if (waitpid(session, &status, 0) != session)
			err(1, "wait");
		return !WIFEXITED(status) || WEXITSTATUS(status);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	setsid();
	open_terminal();
	start_sparse();
	test_ctrl_z();
	test_ctrl_z_in_census();
	test_long_census();
	test_redraw();
	test_ends_in_census('C' & 0x1f, 0, "ctrl-C");
	test_ends_in_census('q', 0, "q");
	test_ends_in_census(0, SIGTERM, "SIGTERM");
	test_full_terminal();
	kill(sparse, SIGKILL);
	remove(CSV);
	return nr_failed > 0;
}
