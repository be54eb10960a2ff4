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

// running is CPU time by the scheduler's clock, which is finer than usage and has no split, and how often threads got a core for it.
type running struct {
	time  time.Duration
	turns int
}

func (r running) minus(s running) running { return running{r.time - s.time, r.turns - s.turns} }

func (p *process) running() (running, error) {
	var sum running
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid()))
	if err != nil || len(threads) == 0 {
		return sum, fmt.Errorf("process %d: no threads: %w", p.pid(), os.ErrNotExist)
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var ran, waited, turns int64
		if _, err := fmt.Sscan(string(text), &ran, &waited, &turns); err != nil {
			return sum, fmt.Errorf("%s: %w", file, err)
		}
		sum.time += time.Duration(ran)
		sum.turns += int(turns)
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
