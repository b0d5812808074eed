/* A clock that is set: adds the seconds in the file $FT_FILE to the time of day. For LD_PRELOAD. From the cases of the independent tests
   (cases/clock.c, 2026-11). CLOCK_MONOTONIC and CLOCK_BOOTTIME stay what they are, as on a machine whose clock is set. */
#define _GNU_SOURCE
#include <time.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdlib.h>
#include <sys/time.h>
static long off(void){ const char*p=getenv("FT_FILE"); if(!p) return 0; FILE*f=fopen(p,"r"); if(!f) return 0; long o=0; if(fscanf(f,"%ld",&o)!=1) o=0; fclose(f); return o; }
int clock_gettime(clockid_t c, struct timespec*t){ static int(*r)(clockid_t,struct timespec*); if(!r) r=dlsym(RTLD_NEXT,"clock_gettime"); int x=r(c,t); if(c==CLOCK_REALTIME||c==CLOCK_REALTIME_COARSE) t->tv_sec+=off(); return x; }
time_t time(time_t*t){ struct timespec s; clock_gettime(CLOCK_REALTIME,&s); if(t)*t=s.tv_sec; return s.tv_sec; }
int gettimeofday(struct timeval*v, void*z){ struct timespec s; clock_gettime(CLOCK_REALTIME,&s); v->tv_sec=s.tv_sec; v->tv_usec=s.tv_nsec/1000; return 0; }
