/*
 * The only program of the guest: loads the module, then does what /script says, a line each.
 *
 *	insmod PARAMETERS      load /fuzzvm_driver.ko
 *	boot OPERATION         do it now
 *	cpu N OPERATION        let the process pinned to CPU N do it, after `start`
 *	start                  start those processes: each parks before every operation and once more at the end
 *	loop N OPERATION       the process pinned to CPU N does all that it has for ever; no parking
 *	run                    start those
 *	show NAME FROM TO      print the module's slots, and the lines of the dump that meet [FROM, TO) or a slot
 *	quit                   power off
 *
 * OPERATION is what the module understands, or: cat (read the dump), cat current_kernel (that of this process, x86_64),
 * wx (read check_wx_pages), kcore ADDRESS... (read a word of each of these pages through /proc/kcore), count NAME (print
 * what /proc/vmstat counts by that name). Everything that the host waits for is a line that begins with "fuzzvm:". An
 * operation that fails is such a line too.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "readers.h"

#define CPUS 8
#define OPERATIONS 128
#define SHOWN 17
/* SYSLOG_ACTION_CONSOLE_LEVEL of syslog(2) */
#define CONSOLE_LEVEL 8

static int driver = -1;
static char *operations[CPUS][OPERATIONS];
static int counts[CPUS];

static void say(const char *format, const char *what, const char *more)
{
	char line[512];
	int length = snprintf(line, sizeof line, format, what, more);

	if (write(1, line, length) != length)
		_exit(1);
}

/* what each CPU has counted for itself is added up once a second */
static int count(const char *name)
{
	char line[128], found[64], value[32];
	FILE *file;
	int failed = -1;

	sleep(3);
	file = fopen("/proc/vmstat", "r");
	while (file && failed && fgets(line, sizeof line, file))
		if (sscanf(line, "%63s %31s", found, value) == 2 && !strcmp(found, name)) {
			say("fuzzvm: counted %s %s\n", name, value);
			failed = 0;
		}
	if (file)
		fclose(file);
	return failed;
}

static void operate(const char *operation)
{
	int failed;

	if (driver < 0)
		driver = open(DEBUG "fuzzvm", O_RDWR | O_CLOEXEC);
	failed = strncmp(operation, "count ", 6) ? read_tables(operation) : count(operation + 6);
	if (failed > 0)
		failed = write(driver, operation, strlen(operation)) < 0;
	if (failed)
		say("fuzzvm: failed: %s: %s\n", operation, strerror(errno));
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		say("fuzzvm: failed: %s: %s\n", "sched_setaffinity", strerror(errno));
}

static void start(int for_ever)
{
	int ready[2], gun[2], workers = 0;
	char none = 0;

	if (pipe(ready) || pipe(gun))
		say("fuzzvm: failed: %s: %s\n", "pipe", strerror(errno));
	for (int cpu = 0; cpu < CPUS; cpu++) {
		if (!counts[cpu])
			continue;
		workers++;
		if (fork())
			continue;
		/*
		 * A CPU that is parked runs nobody else, not even the thread that moves a process off it: all are to be
		 * in their places, and the host to know it, before the first one parks.
		 */
		pin(cpu);
		close(gun[1]);
		/* an open file lets one process write at a time, and a parked one would keep all others out */
		close(driver);
		driver = -1;
		if (write(ready[1], &none, 1) != 1 || read(gun[0], &none, 1) < 0)
			say("fuzzvm: failed: %s: %s\n", "start", strerror(errno));
		do
			for (int i = 0; i < counts[cpu]; i++) {
				if (!for_ever)
					operate("park");
				operate(operations[cpu][i]);
			}
		while (for_ever);
		operate("park");
		for (;;)
			pause();
	}
	while (workers-- && read(ready[0], &none, 1) == 1)
		;
	say("fuzzvm: %s%s\n", for_ever ? "running" : "started", "");
	tcdrain(1);
	close(gun[1]);
}

static void show(const char *arguments)
{
	char name[64], line[512];
	unsigned long from[SHOWN], to[SHOWN], first, last;
	int ranges = 1;
	FILE *file;

	if (sscanf(arguments, "%63s %lx %lx", name, &from[0], &to[0]) != 3)
		return;
	/* a message of the kernel's would stand in the middle of a row */
	klogctl(CONSOLE_LEVEL, NULL, 1);
	say("fuzzvm: show %s%s\n", name, "");
	file = fopen(DEBUG "fuzzvm", "r");
	while (file && fgets(line, sizeof line, file) && ranges < SHOWN) {
		say("slot %s%s", line, "");
		if (sscanf(line, "%*d %lx %lx", &from[ranges], &to[ranges]) == 2) {
			to[ranges] += from[ranges];
			ranges++;
		}
	}
	if (file)
		fclose(file);
	int fd = open_dump();
	file = fd < 0 ? NULL : fdopen(fd, "r");
	while (file && fgets(line, sizeof line, file)) {
		int meets = 0;

		if (sscanf(line, "0x%lx-0x%lx", &first, &last) == 2)
			for (int i = 0; i < ranges; i++)
				meets |= first < to[i] && (!last || last > from[i]);
		if (meets)
			say("%s%s", line, "");
	}
	if (file)
		fclose(file);
	say("fuzzvm: shown %s%s\n", name, "");
	tcdrain(1);
	klogctl(CONSOLE_LEVEL, NULL, 7);
}

static void insmod(const char *parameters)
{
	int fd = open("/fuzzvm_driver.ko", O_RDONLY);

	if (syscall(SYS_finit_module, fd, parameters, 0))
		say("fuzzvm: failed: %s: %s\n", "insmod", strerror(errno));
	close(fd);
}

static void obey(char *line)
{
	char *rest = strchr(line, ' ');
	int cpu, at;

	line[strcspn(line, "\n")] = '\0';
	rest = rest ? rest + 1 : line + strlen(line);
	if (!strncmp(line, "insmod ", 7))
		insmod(rest);
	else if (!strncmp(line, "boot ", 5))
		operate(rest);
	else if (!strncmp(line, "show ", 5))
		show(rest);
	else if (!strcmp(line, "start"))
		start(0);
	else if (!strcmp(line, "run"))
		start(1);
	else if (!strcmp(line, "quit"))
		reboot(RB_POWER_OFF);
	else if ((sscanf(line, "cpu %d %n", &cpu, &at) == 1 || sscanf(line, "loop %d %n", &cpu, &at) == 1) && cpu >= 0 &&
		 cpu < CPUS && counts[cpu] < OPERATIONS)
		operations[cpu][counts[cpu]++] = strdup(line + at);
	else
		say("fuzzvm: failed: %s: %s\n", line, "not understood");
}

int main(void)
{
	char line[512];
	FILE *script;

	mkdir("/sys", 0755);
	mkdir("/proc", 0755);
	if (mount("sysfs", "/sys", "sysfs", 0, NULL) || mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL) ||
	    mount("proc", "/proc", "proc", 0, NULL))
		say("fuzzvm: failed: %s: %s\n", "mount", strerror(errno));
	pin(0);
	script = fopen("/script", "r");
	while (script && fgets(line, sizeof line, script))
		obey(line);
	say("fuzzvm: %s%s\n", "script done", "");
	for (;;)
		pause();
}
