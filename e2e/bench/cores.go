package main

import (
	"math"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// nearCores is up to how long a cache line may be under way between two cores that share a cache: 20 to 60 ns.
const nearCores = 100 * time.Nanosecond

// coreDistance returns how long it takes until a core sees what another one has written, or 0 where that can't be told. On a virtual
// machine it changes while it runs: the hypervisor moves the cores, and bulk data then costs a third more. It is the least of
// several tries, as somebody else may run meanwhile.
func coreDistance() time.Duration {
	if runtime.NumCPU() < 2 {
		return 0
	}
	least := time.Duration(math.MaxInt64)
	for range 8 {
		least = min(least, volley(0, 1))
	}
	return least
}

// volley has two cores pass a number to and fro, and returns how long one pass takes. Both threads end with it, as they stay
// pinned.
func volley(here, there int) time.Duration {
	const last = 401
	var number atomic.Int64
	follow := func() bool {
		pinned := pin(there)
		for i := int64(1); i <= last; i += 2 {
			await(&number, i-1)
			number.Store(i)
		}
		return pinned
	}
	lead := func() time.Duration {
		pinned := pin(here)
		await(&number, 1)
		began := time.Now()
		for i := int64(2); i < last; i += 2 {
			number.Store(i)
			await(&number, i+1)
		}
		if !pinned {
			return 0
		}
		return time.Since(began) / (last - 1)
	}
	took, followed := make(chan time.Duration), make(chan bool, 1)
	go func() { followed <- follow() }()
	go func() { took <- lead() }()
	distance := <-took
	if !<-followed {
		return 0
	}
	return distance
}

func await(number *atomic.Int64, value int64) {
	for number.Load() != value {
	}
}

// pin keeps the calling goroutine, and its thread for ever, on a core.
func pin(core int) bool {
	runtime.LockOSThread()
	var mask [16]uint64
	mask[core/64] = 1 << (core % 64)
	_, _, failed := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return failed == 0
}
