package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// usage is what a process holds.
type usage struct {
	files, goroutines int
	memory            uint64 // bytes, resident
}

// above tells that more is held than can be chance.
func (u usage) above(was usage) bool {
	return u.files > was.files+filesSlack || u.goroutines > was.goroutines+goroutinesSlack ||
		float64(u.memory) > float64(was.memory)*memorySlack+memoryFloor
}

func (u usage) String() string {
	return fmt.Sprintf("%d files, %d goroutines, %.1f MB", u.files, u.goroutines, float64(u.memory)/1e6)
}

// usageOf measures a program; goroutines only of ztunnels, whose metrics tell.
func (s *soak) usageOf(ctx context.Context, name string) (usage, error) {
	p, err := s.cluster.Process(name)
	if err != nil {
		return usage{}, err
	}
	files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Pid), "fd"))
	if err != nil {
		return usage{}, err
	}
	u := usage{files: len(files)}
	if u.memory, err = p.Memory(); err != nil {
		return u, err
	}
	if node, ok := strings.CutPrefix(name, demo.Ztunnel("")); ok {
		text, err := s.cluster.Get(ctx, node, "http://127.0.0.1:15020/metrics")
		if err != nil {
			return u, err
		}
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, "go_goroutines "); ok {
				u.goroutines, _ = strconv.Atoi(strings.TrimSpace(value))
			}
		}
	}
	return u, nil
}

// sum adds up a metric of all ztunnels over the series that have all of the words.
func (s *soak) sum(ctx context.Context, metric string, words ...string) (total uint64, err error) {
	for _, node := range s.cluster.Spec().Nodes {
		lines, err := s.cluster.MetricLines(ctx, node, metric, words...)
		if err != nil {
			return 0, err
		}
		for _, line := range lines {
			value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				return 0, fmt.Errorf("metric %s: %w", line, err)
			}
			total += uint64(value)
		}
	}
	return total, nil
}

// tally is what metrics say about the client's connections, seen from either side.
type tally struct {
	opened, closed map[string]uint64 // by reporter
}

func (s *soak) tally(ctx context.Context) (t tally, err error) {
	t = tally{map[string]uint64{}, map[string]uint64{}}
	for _, reporter := range []string{"source", "destination"} {
		from := []string{fmt.Sprintf("reporter=%q", reporter), fmt.Sprintf("source_workload=%q", client)}
		if t.opened[reporter], err = s.sum(ctx, "istio_tcp_connections_opened_total", from...); err != nil {
			return t, err
		}
		if t.closed[reporter], err = s.sum(ctx, "istio_tcp_connections_closed_total", from...); err != nil {
			return t, err
		}
	}
	return t, nil
}

// traces lists what a run could leave behind on the machine: namespaces, mounts, processes.
func traces(dir string) (found []string) {
	for _, pattern := range []string{"/run/netns/tulle-" + clusterName + "-*", "/sys/fs/bpf/*" + clusterName + "*"} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "tulle-"+clusterName+"-") {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	executables, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, path := range executables {
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, dir+"/") {
			found = append(found, "process "+filepath.Base(filepath.Dir(path))+" "+target)
		}
	}
	slices.Sort(found)
	return found
}
