// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The calls that come from user space: each process is on one CPU and reads the kernel's page tables for ever. Run by
 * run.sh, as root, once fuzzvm_stress is loaded.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

@READERS@

@OPERATIONS@

static unsigned long parameter(const char *name)
{
	char path[64];
	unsigned long value = 0;
	FILE *file;

	snprintf(path, sizeof path, "/sys/module/fuzzvm_stress/parameters/%s", name);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%lu", &value) != 1) {
		fprintf(stderr, "%s: not there: is the module loaded?\n", path);
		exit(2);
	}
	fclose(file);
	return value;
}

/* the addresses of an operation are offsets into each instance */
static int read_of_instance(const char *operation, unsigned long at)
{
	char line[4096] = "kcore";
	unsigned long offset;
	int used = 5, length;

	for (operation += 6; sscanf(operation, "%lx%n", &offset, &length) == 1; operation += length)
		used += snprintf(line + used, sizeof line - used, " %#lx", at + offset);
	return read_tables(line);
}

static void read_for_ever(int cpu, const char *const *operations)
{
	unsigned long area = parameter("area"), instances = parameter("instances");
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set)) {
		perror("sched_setaffinity");
		exit(2);
	}
	for (;;)
		for (int i = 0; operations[i]; i++) {
			int failed = 0;

			if (strncmp(operations[i], "kcore ", 6))
				failed = read_tables(operations[i]);
			else
				/* a page may not be there just now */
				for (unsigned long n = 0; n < instances; n++)
					read_of_instance(operations[i], area + n * SPAN);
			if (failed) {
				fprintf(stderr, "%s: %s\n", operations[i], strerror(errno));
				exit(2);
			}
		}
}

int main(void)
{
	for (int i = 0; readers[i].cpu >= 0; i++)
		if (!fork())
			read_for_ever(readers[i].cpu, readers[i].operations);
	/* none ends unless it cannot read; where there is none, all calls are the module's */
	if (wait(NULL) < 0)
		pause();
	return 2;
}
