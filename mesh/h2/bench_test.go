package h2

import "testing"

const benchChunk = 16<<10 - FrameHeaderLen

// established joins a client and a server without anything between them, with one stream.
func established(tb testing.TB) (client, server *Conn, id uint32) {
	client, server = New(Config{Role: Client}), New(Config{Role: Server})
	pass := func(from, to *Conn) {
		p := takeControl(from)
		if _, err := feed(to, p, len(p)+1); err != nil {
			tb.Fatal(err)
		}
	}
	pass(client, server)
	pass(server, client)
	id, err := client.Open(connectFields, false)
	if err != nil {
		tb.Fatal(err)
	}
	pass(client, server)
	if err := server.Headers(id, statusFields("200"), false); err != nil {
		tb.Fatal(err)
	}
	pass(server, client)
	return client, server, id
}

// moveChunk sends one chunk from client to server, has it consumed, and returns the window updates.
func moveChunk(client, server *Conn, id uint32, space []byte) error {
	client.Ready(id)
	next, n := client.Next()
	out := client.AppendData(space[:0], next, min(n, benchChunk), false)
	out = out[:len(out)+min(n, benchChunk)]
	for len(out) > 0 {
		used, ev, err := server.Receive(out)
		if err != nil {
			return err
		}
		out = out[used:]
		server.Consumed(ev.Stream, len(ev.Data))
	}
	back := append(space[:0], server.Control()...)
	server.Said(len(back))
	for len(back) > 0 {
		used, _, err := client.Receive(back)
		if err != nil {
			return err
		}
		back = back[used:]
	}
	return nil
}

func BenchmarkChunk(b *testing.B) {
	client, server, id := established(b)
	space := make([]byte, 64<<10)
	b.SetBytes(benchChunk)
	b.ReportAllocs()
	for b.Loop() {
		if err := moveChunk(client, server, id, space); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStream(b *testing.B) {
	client, server, _ := established(b)
	space := make([]byte, 64<<10)
	pass := func(from, to *Conn) {
		p := append(space[:0], from.Control()...)
		from.Said(len(p))
		for len(p) > 0 {
			n, _, err := to.Receive(p)
			if err != nil {
				b.Fatal(err)
			}
			p = p[n:]
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		id, err := client.Open(connectFields, false)
		if err != nil {
			b.Fatal(err)
		}
		pass(client, server)
		_ = server.Headers(id, statusFields("200"), false)
		server.Finish(id)
		pass(server, client)
		client.Finish(id)
		pass(client, server)
	}
}

func TestChunksAreNotAllocated(t *testing.T) {
	client, server, id := established(t)
	space := make([]byte, 64<<10)
	allocs := testing.AllocsPerRun(2000, func() {
		if err := moveChunk(client, server, id, space); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per chunk, want 0", allocs)
	}
}
