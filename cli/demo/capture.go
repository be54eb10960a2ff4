package demo

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// HBONEPort is where meshed pods accept tunnels.
const HBONEPort = 15008

// Capture records what TCP packets carry between a node and all others. It keeps counts, and the packets in which a
// marker was found, not the traffic.
type Capture struct {
	fd      int
	markers [][]byte
	stop    chan struct{} // closed by Stop
	ended   chan struct{} // closed by loop when it's gone

	mu     sync.Mutex // guards the rest
	report Report
	err    error
}

// Report is what a capture has seen so far.
type Report struct {
	Packets    uint64            // that carried payload
	Sightings  []Sighting        // of markers; at most maxSightings
	Records    uint64            // packets on HBONEPort that begin with a TLS record
	Plain      uint64            // packets on HBONEPort that belong to no TLS connection
	Handshakes map[string]uint64 // ServerHellos on HBONEPort by the version they choose, such as "TLS 1.3"
	Missed     uint64            // packets that came faster than they could be read
}

// Sighting is one packet that shows a marker to everybody on the wire.
type Sighting struct {
	Marker   string
	From, To netip.AddrPort
	Text     string // the payload's surroundings of the marker
}

const (
	maxSightings = 64
	snapLength   = 1 << 17
)

// Watch starts a capture on the link between a node and the fabric that looks for markers.
func (c *Cluster) Watch(node string, markers ...string) (*Capture, error) {
	w, err := c.watch(uplink(node), markers)
	if err != nil {
		return nil, fmt.Errorf("capture packets of %s: %w", node, err)
	}
	return w, nil
}

// WatchAll is Watch on all links of the fabric, also those that come later, as when a node reboots. A packet is seen on each of its links.
func (c *Cluster) WatchAll(markers ...string) (*Capture, error) {
	w, err := c.watch("", markers)
	if err != nil {
		return nil, fmt.Errorf("capture packets of all nodes: %w", err)
	}
	return w, nil
}

func (c *Cluster) watch(link string, markers []string) (*Capture, error) {
	w := &Capture{stop: make(chan struct{}), ended: make(chan struct{}), report: Report{Handshakes: map[string]uint64{}}}
	for _, marker := range markers {
		w.markers = append(w.markers, []byte(marker))
	}
	var err error
	if w.fd, err = openCapture(c.nets[fabric], link); err != nil {
		return nil, err
	}
	go w.loop()
	return w, nil
}

// openCapture returns a packet socket on a link, "" for all of the namespace, which gives each packet from its IP header on.
func openCapture(netns *wire.Netns, link string) (int, error) {
	var fd int
	err := wire.Links(netns, func(handle *netlink.Handle) error {
		index := 0
		if link != "" {
			device, err := handle.LinkByName(link)
			if err != nil {
				return err
			}
			index = device.Attrs().Index
		}
		all := htons(unix.ETH_P_ALL)
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
		)
		if err != nil {
			unix.Close(fd)
		}
		return err
	})
	return fd, err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// loop reads until the capture is stopped and an empty read after that shows that nothing is left in the queue.
func (w *Capture) loop() {
	defer close(w.ended)
	buffer := make([]byte, snapLength)
	for {
		stopped := false
		select {
		case <-w.stop:
			stopped = true
		default:
		}
		n, _, err := unix.Recvfrom(w.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if stopped {
				w.finish(nil)
				return
			}
		case err != nil:
			w.finish(err)
			return
		default:
			w.packet(buffer[:n])
		}
	}
}

func (w *Capture) finish(err error) {
	stats, statsErr := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	w.mu.Lock()
	defer w.mu.Unlock()
	if statsErr == nil {
		w.report.Missed += uint64(stats.Drops)
	}
	w.err = errors.Join(err, statsErr, unix.Close(w.fd))
}

// packet notes what one packet shows.
func (w *Capture) packet(data []byte) {
	from, to, payload, ok := parseTCP(data)
	if !ok || len(payload) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Packets++
	for _, marker := range w.markers {
		if at := bytes.Index(payload, marker); at >= 0 && len(w.report.Sightings) < maxSightings {
			w.report.Sightings = append(w.report.Sightings, Sighting{string(marker), from, to, around(payload, at, len(marker))})
		}
	}
	if from.Port() == HBONEPort || to.Port() == HBONEPort {
		w.tunnel(payload)
	}
}

// tunnel notes a packet of port 15008. A packet in the middle of a record can't be told from noise, so only those that
// begin with a record count as one.
func (w *Capture) tunnel(payload []byte) {
	if version, ok := serverHello(payload); ok {
		w.report.Handshakes[version]++
	}
	if isRecord(payload) {
		w.report.Records++
	}
	if isCleartext(payload) {
		w.report.Plain++
	}
}

// Report returns what was seen so far.
func (w *Capture) Report() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.report
	r.Sightings = append([]Sighting(nil), r.Sightings...)
	r.Handshakes = map[string]uint64{}
	for version, count := range w.report.Handshakes {
		r.Handshakes[version] = count
	}
	return r
}

// Seen lists the packets that showed a marker.
func (r Report) Seen(marker string) []Sighting {
	var out []Sighting
	for _, s := range r.Sightings {
		if s.Marker == marker {
			out = append(out, s)
		}
	}
	return out
}

// Stop ends the capture after it has read every packet that came before, and returns its report. It must be called
// once. A capture that missed packets is an error, since it can't prove that something was not on the wire.
func (w *Capture) Stop() (Report, error) {
	// A filter that takes nothing, so that the queue gets empty however much goes on on the link.
	nothing := &unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET}}
	filterErr := unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, nothing)
	close(w.stop)
	<-w.ended
	r, err := w.Report(), errors.Join(filterErr, w.err)
	if err == nil && r.Missed > 0 {
		err = fmt.Errorf("the capture missed %d packets", r.Missed)
	}
	return r, err
}

// around is the printable text near a marker.
func around(payload []byte, at, length int) string {
	text := bytes.Clone(payload[max(0, at-40):min(len(payload), at+length+20)])
	for i, b := range text {
		if b < ' ' || b > '~' {
			text[i] = '.'
		}
	}
	return string(text)
}

// parseTCP finds the addresses and the payload of an IPv4 or IPv6 packet; ok is false for everything but TCP.
func parseTCP(p []byte) (from, to netip.AddrPort, payload []byte, ok bool) {
	if len(p) < 20 {
		return
	}
	var src, dst []byte
	switch p[0] >> 4 {
	case 4:
		header, total := int(p[0]&15)*4, int(p[2])<<8|int(p[3])
		// A fragment's rest has no TCP header. Large offloaded packets may say 0 for their length.
		if header < 20 || len(p) < header || p[9] != unix.IPPROTO_TCP || (int(p[6]&0x1f)<<8|int(p[7])) != 0 {
			return
		}
		if total >= header && total < len(p) {
			p = p[:total]
		}
		src, dst, p = p[12:16], p[16:20], p[header:]
	case 6:
		if len(p) < 40 || p[6] != unix.IPPROTO_TCP {
			return
		}
		if total := 40 + (int(p[4])<<8 | int(p[5])); total > 40 && total < len(p) {
			p = p[:total]
		}
		src, dst, p = p[8:24], p[24:40], p[40:]
	default:
		return
	}
	if len(p) < 20 || len(p) < int(p[12]>>4)*4 {
		return
	}
	from = netip.AddrPortFrom(addrFrom(src), uint16(p[0])<<8|uint16(p[1]))
	to = netip.AddrPortFrom(addrFrom(dst), uint16(p[2])<<8|uint16(p[3]))
	return from, to, p[int(p[12]>>4)*4:], true
}

func addrFrom(b []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(net.IP(b))
	return addr
}
