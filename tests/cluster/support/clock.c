// SPDX-License-Identifier: Apache-2.0
// A process whose wall clock is off by ANTIPHON_CLOCK_MS milliseconds (LD_PRELOAD).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long long off_ns(void) {
	static long long found;
	static int is_known;
	if (!is_known) {
		const char *text = getenv("ANTIPHON_CLOCK_MS");
		found = text == NULL ? 0 : atoll(text) * 1000000LL;
		is_known = 1;
	}
	return found;
}

int clock_gettime(clockid_t which, struct timespec *time) {
	static int (*real)(clockid_t, struct timespec *);
	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(which, time);
	if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
		long long all = time->tv_sec * 1000000000LL + time->tv_nsec + off_ns();
		time->tv_sec = all / 1000000000LL;
		time->tv_nsec = all % 1000000000LL;
	}
	return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
	(void)zone;
	struct timespec now;
	int result = clock_gettime(CLOCK_REALTIME, &now);
	if (time != NULL) {
		time->tv_sec = now.tv_sec;
		time->tv_usec = now.tv_nsec / 1000;
	}
	return result;
}
