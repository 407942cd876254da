/* The fast paths of a lock that one writes under or many read under: bit 0 is the writer, 256 one reader. */
#include "small.h"

#define WRITER 1l
#define WAITERS 2l
#define READER 256l

#ifdef __x86_64__
static inline s64 cmpxchg_acquire(s64 *at, s64 old, s64 new)
{
	asm volatile("lock cmpxchgq %2, %1" : "+a"(old), "+m"(*at) : "r"(new) : "memory", "cc");
	return old;
}

static inline s64 add_return_release(s64 *at, s64 amount)
{
	s64 result = amount;

	asm volatile("lock xaddq %0, %1" : "+r"(result), "+m"(*at) :: "memory", "cc");
	return result + amount;
}
#else
#define preempt_disable() do { } while (0)
#define preempt_enable() do { } while (0)

static inline s64 cmpxchg_acquire(s64 *at, s64 old, s64 new)
{
	s64 seen;
	u64 failed;

	if (has_lse_atomics()) {
		seen = old;
		asm volatile(".arch_extension lse\n\tcasa %0, %2, %1" : "+r"(seen), "+Q"(*at) : "r"(new) : "memory");
		return seen;
	}
	asm volatile("prfm pstl1strm, %2\n"
		     "1: ldaxr %0, %2\n"
		     "eor %1, %0, %3\n"
		     "cbnz %1, 2f\n"
		     "stxr %w1, %4, %2\n"
		     "cbnz %w1, 1b\n"
		     "2:"
		     : "=&r"(seen), "=&r"(failed), "+Q"(*at)
		     : "r"(old), "r"(new)
		     : "memory");
	return seen;
}

static inline s64 add_return_release(s64 *at, s64 amount)
{
	s64 result;
	u64 failed;

	if (has_lse_atomics()) {
		asm volatile(".arch_extension lse\n\tldaddl %2, %0, %1" : "=r"(result), "+Q"(*at) : "r"(amount) : "memory");
		return result + amount;
	}
	asm volatile("prfm pstl1strm, %2\n"
		     "1: ldxr %0, %2\n"
		     "add %0, %0, %3\n"
		     "stlxr %w1, %0, %2\n"
		     "cbnz %w1, 1b\n"
		     : "=&r"(result), "=&r"(failed), "+Q"(*at)
		     : "r"(amount)
		     : "memory");
	return result;
}
#endif

void down_write(struct rw_semaphore *sem)
{
	preempt_disable();
	if (unlikely(cmpxchg_acquire(&sem->count.counter, 0, WRITER) != 0)) {
		rwsem_down_write_slowpath(sem);
		preempt_enable();
		return;
	}
	WRITE_ONCE(sem->owner.counter, (s64)get_current());
	preempt_enable();
}

void up_write(struct rw_semaphore *sem)
{
	WRITE_ONCE(sem->owner.counter, 0);
	if (unlikely(add_return_release(&sem->count.counter, -WRITER) & WAITERS))
		rwsem_wake(sem);
}

bool down_read_trylock(struct rw_semaphore *sem)
{
	s64 count = READ_ONCE(sem->count.counter);
	s64 seen;

	while (!(count & (WRITER | WAITERS))) {
		seen = cmpxchg_acquire(&sem->count.counter, count, count + READER);
		if (seen == count)
			return 1;
		count = seen;
	}
	return 0;
}

void up_read(struct rw_semaphore *sem)
{
	s64 count = add_return_release(&sem->count.counter, -READER);

	if (unlikely((count & (WAITERS | -READER)) == WAITERS))
		rwsem_wake(sem);
}
