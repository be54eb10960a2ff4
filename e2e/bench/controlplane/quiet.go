package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// others tells how much of the machine was used by whoever has nothing to do with the benchmark.
type others struct {
	at    time.Time
	spent time.Duration
}

// lookAtOthers takes what we and our children have used off what was used of the machine, also by the hypervisor.
func lookAtOthers() (others, error) {
	machine, err := os.ReadFile("/proc/stat")
	if err != nil {
		return others{}, err
	}
	line, _, _ := bytes.Cut(machine, []byte("\n"))
	const user, nice, system, irq, softirq, steal = 1, 2, 3, 6, 7, 8
	o := others{at: time.Now(), spent: sum(strings.Fields(string(line)), user, nice, system, irq, softirq, steal)}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := statFields(text)
		const parent, utime, stime, cutime, cstime = 1, 11, 12, 13, 14
		switch strconv.Itoa(os.Getpid()) {
		case filepath.Base(filepath.Dir(file)):
			o.spent -= sum(fields, utime, stime, cutime, cstime)
		case fields[parent]:
			o.spent -= sum(fields, utime, stime)
		}
	}
	return o, err
}

// share is what others used between two looks, in percent of the machine.
func (o others) share(before others) float64 {
	return 100 * max(0, (o.spent-before.spent).Seconds()) / o.at.Sub(before.at).Seconds() / float64(runtime.NumCPU())
}

// statFields are those of /proc/PID/stat after the program's name.
func statFields(text []byte) []string {
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}

// sum adds up times in clock ticks, which are the same on every machine.
func sum(fields []string, numbers ...int) time.Duration {
	var ticks int64
	for _, i := range numbers {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// meanwhile runs a measurement and notes how much others used the machine meanwhile.
func (b *bench) meanwhile(f figure, measure func() error) error {
	before, err := lookAtOthers()
	if err != nil {
		return fmt.Errorf("look who uses the machine: %w", err)
	}
	if err := measure(); err != nil {
		return err
	}
	after, err := lookAtOthers()
	b.set(f, after.share(before))
	return err
}
