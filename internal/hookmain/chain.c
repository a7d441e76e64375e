// The next hook. All of this runs before the Go runtime starts, or in the process
// in which it never does: what the next hook finds is what Nix gave us, since nobody
// has touched it. There are no threads yet, so fork is as good as it ever was.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "begin.h"

// In milliseconds: how long the child may take until it says how long it may take;
// how long after that it is taken for hanging, since it ends by itself; and how long
// a killed one is waited for: forever would be too long if a dead disk has it.
enum { START = 1000, GRACE = 100, BURIAL = 100 };

// What a shell exits with.
enum { CANT_RUN = 126, NOT_FOUND = 127 };

// The child's end of a pipe whose other end the parent reads. It also tells when the
// child has ended, since nobody else has it.
static int to_parent = -1;

void tell_chain(long usec) {
	if (to_parent >= 0) {
		ssize_t ignored = write(to_parent, &usec, sizeof usec);
		(void)ignored;
	}
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
	char line[1200];
	va_list args;
	va_start(args, format);
	int len = vsnprintf(line, sizeof line - 1, format, args);
	va_end(args);
	if (len > (int)sizeof line - 2)
		len = sizeof line - 2;
	for (int i = 0; i < len; i++) // names may have anything in them
		if ((unsigned char)line[i] < ' ')
			line[i] = '?';
	line[len++] = '\n';
	// Nix may be gone, or have stopped reading.
	struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
	sigaction(SIGPIPE, &ignore, &before);
	struct pollfd err = {.fd = 2, .events = POLLOUT};
	if (poll(&err, 1, 0) == 1) {
		ssize_t ignored = write(2, line, len);
		(void)ignored;
	}
	sigaction(SIGPIPE, &before, 0);
}

// next_of reads the name of the next hook from the file beside a hook. It returns
// -1 and sets errno if it can't: to ENOENT if there is none, and to EINVAL if the file
// has no absolute path in it.
static int next_of(const char *hook, char next[PATH_MAX]) {
	char file[PATH_MAX];
	next[0] = 0;
	if (snprintf(file, sizeof file, "%s.next", hook) >= (int)sizeof file) {
		errno = ENOENT; // the kernel could not find it either
		return -1;
	}
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe is not waited for
	if (fd < 0) {
		if (errno == ENOTDIR || errno == ENAMETOOLONG)
			errno = ENOENT;
		return -1;
	}
	ssize_t len = read(fd, next, PATH_MAX);
	int err = errno;
	close(fd);
	if (len < 0) {
		next[0] = 0;
		errno = err;
		return -1;
	}
	if (len > 0 && next[len - 1] == '\n')
		len--;
	if (len < PATH_MAX)
		next[len] = 0;
	if (len == PATH_MAX || strlen(next) != (size_t)len || next[0] != '/') {
		next[PATH_MAX - 1] = 0;
		errno = EINVAL;
		return -1;
	}
	return 0;
}

// same_place tells whether two absolute names are of one file in one directory. The
// directory makes a hook what it is: the program may be a link to one that others
// share.
static int same_place(const char *a, const char *b) {
	const char *names[] = {a, b};
	struct stat dirs[2];
	for (int i = 0; i < 2; i++) {
		char dir[PATH_MAX];
		int len = strrchr(names[i], '/') + 1 - names[i];
		if (snprintf(dir, sizeof dir, "%.*s", len, names[i]) >= (int)sizeof dir || stat(dir, &dirs[i]))
			return 0;
	}
	return !strcmp(strrchr(a, '/'), strrchr(b, '/')) && dirs[0].st_dev == dirs[1].st_dev && dirs[0].st_ino == dirs[1].st_ino;
}

// leads_back tells whether calling the next hook would come back to this one.
static int leads_back(const char *hook, const char *next) {
	char names[2][PATH_MAX];
	for (int hops = 0; hops < 100; hops++) {
		if (same_place(hook, next))
			return 1;
		if (next_of(next, names[hops % 2]))
			return 0;
		next = names[hops % 2];
	}
	return 0; // a circle that this hook is not in
}

// child_pipe makes a pipe that is not mistaken for standard input, output or error,
// if Nix has closed those.
static int child_pipe(int ends[2]) {
	int low[2];
	if (pipe(low))
		return -1;
	for (int i = 0; i < 2; i++)
		ends[i] = fcntl(low[i], F_DUPFD_CLOEXEC, 3);
	close(low[0]);
	close(low[1]);
	return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

// has_ended waits until the child has ended, and returns 0 if it takes longer than
// it may.
static int has_ended(int from_child, long long patience) {
	for (long long until = now() + patience;;) {
		long long left = until - now();
		struct pollfd fd = {.fd = from_child, .events = POLLIN};
		int n = poll(&fd, 1, left < 0 ? 0 : left > 1000000 ? 1000000 : left);
		if (n <= 0 && left <= 0)
			return 0;
		if (n <= 0)
			continue; // a signal, or much time left
		long usec;
		if (read(from_child, &usec, sizeof usec) != sizeof usec)
			return 1;
		until = now() + usec / 1000 + GRACE;
	}
}

static void wait_for(pid_t child, int from_child) {
	int hangs = !has_ended(from_child, START);
	if (hangs)
		kill(child, SIGKILL);
	// A child that even so does not end must not keep us.
	int flags = hangs && !has_ended(from_child, BURIAL) ? WNOHANG : 0;
	int status = 0;
	while (waitpid(child, &status, flags) < 0 && errno == EINTR)
		;
	close(from_child);
	if (hangs)
		say("larder-hook: killed: its deadline passed, and it did not end");
	else if (WIFSIGNALED(status))
		say("larder-hook: ended by signal %d", WTERMSIG(status));
}

void chain(const char *hook) {
	char next[PATH_MAX];
	if (hook[0] != '/')
		return; // there is nothing beside a name that was found in the PATH
	int err = next_of(hook, next) ? errno : 0;
	if (err == ENOENT)
		return;

	int ends[2] = {-1, -1};
	pid_t child = child_pipe(ends) ? -1 : fork();
	if (child == 0) {
		close(ends[0]);
		to_parent = ends[1];
		return;
	}
	if (child > 0) {
		close(ends[1]);
		wait_for(child, ends[0]);
	} else {
		say("larder-hook: start a process: %s", strerror(errno)); // the watcher sees what was built
	}

	if (err) {
		if (err == EINVAL)
			say("larder-hook: %s.next says \"%s\", which is no absolute path", hook, next);
		else
			say("larder-hook: read %s.next: %s", hook, strerror(err));
		_exit(CANT_RUN);
	}
	if (leads_back(hook, next)) {
		say("larder-hook: %s.next is ignored: %s leads back to this hook", hook, next);
		_exit(0);
	}
	execvp(next, (char *[]){next, 0}); // as Nix does: also a script without #!
	err = errno;
	say("larder-hook: run %s: %s", next, strerror(err));
	_exit(err == ENOENT ? NOT_FOUND : CANT_RUN);
}
