package dns

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxServers     = 3       // as libc has it
	maxSearch      = 32      // domains, as Kubernetes has it
	maxResolvConf  = 1 << 16 // bytes
	defaultNdots   = 1
	mostNdots      = 15 // as libc has it
	dnsPort        = 53
	reloadInterval = 5 * time.Second
)

// ResolvConf is what resolv.conf says: of a pod, or of the machine. Its zero value says nothing.
type ResolvConf struct {
	Servers []netip.AddrPort
	Search  []string
	Ndots   int
}

// ParseResolvConf reads a resolv.conf. It never fails: what it can't understand it leaves out, as resolvers do.
func ParseResolvConf(text string) ResolvConf {
	var servers, search []string
	ndots := defaultNdots
	for line := range strings.Lines(text) {
		fields := strings.Fields(strings.TrimLeft(line, " \t"))
		if len(fields) < 2 || strings.ContainsAny(fields[0][:1], "#;") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			servers = append(servers, fields[1])
		case "search":
			search = fields[1:]
		case "domain":
			search = fields[1:2]
		case "options":
			for _, option := range fields[1:] {
				if number, ok := strings.CutPrefix(option, "ndots:"); ok {
					if n, err := strconv.Atoi(number); err == nil {
						ndots = n
					}
				}
			}
		}
	}
	return NewResolvConf(servers, search, ndots)
}

// NewResolvConf keeps of a configuration what can be used, within the limits of libc and Kubernetes.
func NewResolvConf(servers, search []string, ndots int) ResolvConf {
	c := ResolvConf{Ndots: min(max(ndots, 0), mostNdots)}
	for _, server := range servers {
		addr, err := netip.ParseAddr(server)
		if err == nil && !addr.IsUnspecified() && len(c.Servers) < maxServers {
			c.Servers = append(c.Servers, netip.AddrPortFrom(addr.Unmap(), dnsPort))
		}
	}
	for _, domain := range search {
		if name, ok := bare(domain); ok && len(name) < 254 && len(c.Search) < maxSearch {
			c.Search = append(c.Search, name)
		}
	}
	return c
}

// reachable returns the servers that somebody in a pod can ask. The pod's own loopback has at most a forwarder that the
// pod's application runs, which asks us.
func (c ResolvConf) reachable() []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(c.Servers), func(server netip.AddrPort) bool { return server.Addr().IsLoopback() })
}

// follower has the newest content of a resolv.conf, and looks for a newer one when it is asked, but not all the time.
type follower struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	changed time.Time // the file's own time
	size    int64
	conf    ResolvConf
}

// load returns the configuration. A file that can't be read leaves the last one in force.
func (f *follower) load() ResolvConf {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); f.looked.IsZero() || now.Sub(f.looked) >= reloadInterval {
		f.looked = now
		if err := f.lookLocked(); err != nil {
			f.log.Warn("the list of name servers can't be read; the last one stays in force", "file", f.path, "err", err)
		}
	}
	return f.conf
}

func (f *follower) lookLocked() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return nil
	}
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxResolvConf))
	if err != nil {
		return err
	}
	f.changed, f.size, f.conf = info.ModTime(), info.Size(), ParseResolvConf(string(text))
	f.log.Debug("name servers", "file", f.path, "servers", f.conf.Servers)
	return nil
}
