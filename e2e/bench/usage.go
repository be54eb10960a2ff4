package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is CPU time.
type usage struct{ user, system time.Duration }

func (u usage) total() time.Duration { return u.user + u.system }

func (u usage) minus(v usage) usage { return usage{u.user - v.user, u.system - v.system} }

func (u usage) plus(v usage) usage { return usage{u.user + v.user, u.system + v.system} }

// tick is the unit of CPU times in /proc, on every machine.
const tick = 10 * time.Millisecond

// statFields are the fields of /proc/PID/stat from the third on, after the name, which may contain anything.
func statFields(pid string) ([]string, error) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%s/stat: unexpected %q", pid, text)
	}
	return fields, nil
}

// ticks sums some of the fields of statFields, which are numbers of ticks.
func ticks(fields []string, which ...int) time.Duration {
	var sum time.Duration
	for _, i := range which {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		sum += time.Duration(n) * tick
	}
	return sum
}

func (p *process) usage() (usage, error) {
	fields, err := statFields(strconv.Itoa(p.pid()))
	if err != nil {
		return usage{}, err
	}
	return usage{ticks(fields, 11), ticks(fields, 12)}, nil
}

// running is the CPU time of the process by the scheduler's clock, which is finer than usage and has no split.
func (p *process) running() (time.Duration, error) {
	var sum time.Duration
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid()))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("process %d: no threads: %w", p.pid(), os.ErrNotExist)
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory is what a process holds, in bytes.
type memory struct{ resident, anonymous float64 }

func (p *process) memory() (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid()))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		switch name {
		case "Rss":
			m.resident = n * 1024
		case "Anonymous":
			m.anonymous = n * 1024
		}
	}
	return m, nil
}
