/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Reads of the kernel's page tables from user space. */
#define DEBUG "/sys/kernel/debug/"

/* arm64 has the file at the root of debugfs, x86 in a folder */
static const char *const dumps[] = {DEBUG "kernel_page_tables", DEBUG "page_tables/kernel"};

static int open_dump(void)
{
	int fd = -1;

	for (unsigned i = 0; i < 2 && fd < 0; i++)
		fd = open(dumps[i], O_RDONLY);
	return fd;
}

static int drain(int fd)
{
	static char buffer[1 << 16];
	ssize_t got;

	if (fd < 0)
		return -1;
	while ((got = read(fd, buffer, sizeof buffer)) > 0)
		;
	close(fd);
	return got;
}

/* the addresses of vmalloc space are at an offset that the file's program headers tell */
static int read_kcore(const char *addresses)
{
	int fd = open("/proc/kcore", O_RDONLY), failed = 0, at;
	unsigned long address, word;
	Elf64_Phdr segments[32];
	Elf64_Ehdr head;

	if (fd < 0)
		return -1;
	if (read(fd, &head, sizeof head) != sizeof head || head.e_phnum > 32 ||
	    pread(fd, segments, head.e_phnum * sizeof *segments, head.e_phoff) < 0)
		failed = -1;
	for (; !failed && sscanf(addresses, "%lx%n", &address, &at) == 1; addresses += at) {
		failed = -1;
		for (int i = 0; i < head.e_phnum && failed; i++)
			if (segments[i].p_type == PT_LOAD && address - segments[i].p_vaddr < segments[i].p_memsz)
				failed = pread(fd, &word, sizeof word,
					       segments[i].p_offset + (address - segments[i].p_vaddr)) == sizeof word ?
						 0 :
						 -1;
	}
	close(fd);
	return failed;
}

/* cat, cat current_kernel, wx, or kcore ADDRESS...; 1 for anything else, -1 where it fails */
static int read_tables(const char *operation)
{
	if (!strcmp(operation, "cat"))
		return drain(open_dump());
	if (!strcmp(operation, "cat current_kernel"))
		return drain(open(DEBUG "page_tables/current_kernel", O_RDONLY));
	if (!strcmp(operation, "wx"))
		return drain(open(DEBUG "check_wx_pages", O_RDONLY));
	if (!strncmp(operation, "kcore ", 6))
		return read_kcore(operation + 6);
	return 1;
}
