package telemetry

import (
	"context"
	"log/slog"
	"strconv"
	"time"
)

// The lines of the access log. Attributes have a fixed order; what isn't known is left out.

func (c *Conn) logOpened() {
	c.log(slog.LevelDebug, "connection opened", nil)
}

func (c *Conn) logClosed(err error) {
	c.mu.Lock()
	sent, received := c.sent, c.received
	c.mu.Unlock()
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.Uint64("bytes_sent", sent),
		slog.Uint64("bytes_recv", received),
		slog.String("duration", strconv.FormatInt(time.Since(c.start).Milliseconds(), 10)+"ms"),
	}
	if err != nil {
		level = slog.LevelError
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	c.log(level, "connection complete", attrs)
}

func (c *Conn) logRefused(err error) {
	var attrs []slog.Attr
	if err != nil {
		attrs = []slog.Attr{slog.String("error", err.Error())}
	}
	c.log(slog.LevelWarn, "connection failed", attrs)
}

func (c *Conn) log(level slog.Level, message string, last []slog.Attr) {
	ctx := context.Background()
	log := c.metrics.access
	if !log.Enabled(ctx, level) {
		return
	}
	info := &c.info
	attrs := make([]slog.Attr, 0, 16)
	if info.Src.IsValid() {
		attrs = append(attrs, slog.Any("src.addr", info.Src))
	}
	attrs = appendPeer(attrs, sourceKeys, info.Source, info.MTLS)
	if info.Dst.IsValid() {
		attrs = append(attrs, slog.Any("dst.addr", info.Dst))
	}
	if info.HBONEDst != "" {
		attrs = append(attrs, slog.Any("dst.hbone_addr", address(info.HBONEDst)))
	}
	attrs = appendText(attrs, "dst.service", info.Service)
	attrs = appendPeer(attrs, destinationKeys, info.Destination, info.MTLS)
	direction := "inbound"
	if info.Reporter == Source {
		direction = "outbound"
	}
	attrs = append(attrs, slog.String("direction", direction))
	log.LogAttrs(ctx, level, message, append(attrs, last...)...)
}

// peerKeys are the attribute names of one end.
type peerKeys struct{ workload, namespace, identity, cluster string }

var (
	sourceKeys      = peerKeys{"src.workload", "src.namespace", "src.identity", "src.cluster"}
	destinationKeys = peerKeys{"dst.workload", "dst.namespace", "dst.identity", "dst.cluster"}
)

func appendPeer(attrs []slog.Attr, keys peerKeys, p Peer, mtls bool) []slog.Attr {
	name := p.Pod
	if name == "" {
		name = p.CanonicalName
	}
	attrs = appendText(attrs, keys.workload, name)
	attrs = appendText(attrs, keys.namespace, p.Namespace)
	if mtls {
		attrs = appendText(attrs, keys.identity, p.Identity.String())
	}
	return appendText(attrs, keys.cluster, p.Cluster)
}

func appendText(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, bounded(value)))
}
