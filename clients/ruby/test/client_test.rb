# frozen_string_literal: true

require_relative "helper"

class ClientTest < Minitest::Test
  include ScriptedServers

  NEWS = { kind: "news" }.freeze
  IN_FORCE = { ret: "bc86961b" }.freeze

  def test_returns_and_tells_a_gap
    gaps = Thread::Queue.new
    first = lambda do |server|
      server.reply(IN_FORCE)
      server.say("bc86961b?1")
    end
    second = lambda do |server|
      server.reply(IN_FORCE)
      server.say("bc86961b?2")
      server.idle
    end
    news = client_of(first, second).subscribe(NEWS, on_gap: ->(gap) { gaps << gap })
    assert_equal %w[1 2], news.first(2).map(&:text)
    gap = take(gaps)
    assert_equal 0, gap.dropped
    assert_operator gap.seconds, :>, 0
  end

  def test_resumes_after_its_last_message
    recovered = Thread::Queue.new
    actions = Thread::Queue.new
    first = lambda do |server|
      actions << server.reply(ret: "bc86961b", at: "k3f09a2c.16")
      server.say("bc86961b@o=17?1")
    end
    second = lambda do |server|
      actions << server.reply(ret: "bc86961b", at: "k3f09a2c.17", recovered: true)
      server.say("bc86961b@o=18?2")
      server.idle
    end
    news = client_of(first, second).subscribe(
      NEWS, offsets: true, on_recovered: -> { recovered << true }, on_gap: ->(gap) { recovered << gap }
    )
    assert_equal %w[k3f09a2c.17 k3f09a2c.18], news.first(2).map(&:position)
    assert_equal true, take(recovered)
    assert_equal [true, nil], take(actions).values_at("offsets", "since")
    assert_equal [nil, "k3f09a2c.17"], take(actions).values_at("offsets", "since")
  end

  def test_a_history_that_cannot_be_served_is_a_gap
    gaps = Thread::Queue.new
    script = lambda do |server|
      server.reply(ret: "bc86961b", at: "k3f09a2c.17", recovered: false)
      server.idle
    end
    client_of(script).subscribe(NEWS, since: "old00000.1", on_gap: ->(gap) { gaps << gap })
    assert_equal [0, 0], take(gaps).to_a
  end

  def test_ends_when_the_server_forbids_to_return
    ended = Thread::Queue.new
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.close(4502, "no longer")
    end
    client = client_of(script, on_ended: ->(error) { ended << error })
    news = client.subscribe(NEWS, on_error: ->(error) { ended << error })
    errors = Array.new(2) { take(ended) }
    assert_equal [["forbidden", 4502]] * 2, errors.map(&:code).zip(errors.map(&:status))
    assert client.wait(10)
    assert_equal :unsubscribed, news.state
    assert_raises(Realizehit::Disconnected) { news.next(timeout: 1) }
    assert_raises(Realizehit::Disconnected) { client.subscribe(NEWS) }
  end

  def test_a_first_connection_that_fails_is_told
    refused = lambda do |socket|
      socket.readpartial(4096)
      socket.write(answer(401, '{"code":"not-authenticated","detail":"the token proves nothing"}'))
    end
    port = serve(refused)
    error = assert_raises(Realizehit::NotAuthenticated) { Realizehit::Client.new("ws://127.0.0.1:#{port}/ws") }
    assert_equal ["not-authenticated", 401, "the token proves nothing"], [error.code, error.status, error.message]
    port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
    assert_raises(Realizehit::Unavailable) { Realizehit::Client.new("ws://127.0.0.1:#{port}/ws") }
  end

  def test_a_handshake_that_is_not_answered_is_given_up
    released = Thread::Queue.new
    port = serve(->(_socket) { released.pop })
    assert_raises(Realizehit::Unavailable) { Realizehit::Client.new("ws://127.0.0.1:#{port}/ws", open_timeout: 0.1) }
    released << nil
  end

  def test_sends_its_token_and_renews_it
    tokens = %w[one two]
    headers = Thread::Queue.new
    script = lambda do |server|
      headers << server.headers["HTTP_AUTHORIZATION"]
      server.say('{"evt":"expiring","seconds":0.1}')
      headers << server.reply(ret: "ok")["token"]
      server.idle
    end
    expiring = Thread::Queue.new
    client_of(script, token: -> { tokens.shift }, on_expiring: ->(seconds) { expiring << seconds })
    assert_equal ["Bearer one", "two"], [take(headers), take(headers)]
    assert_in_delta 0.1, take(expiring)
  end

  def test_a_token_that_cannot_be_had_is_told_without_it
    messages = [-> { raise "no" }, "sec\r\nret"].map do |token|
      assert_raises(Realizehit::TokenFailed) { Realizehit::Client.new("ws://127.0.0.1:1/", token:) }.message
    end
    assert_equal ["there is no token: no", "the token is not a text of visible ASCII characters"], messages
  end

  def test_two_of_one_pattern_are_one_on_the_wire
    acts = Thread::Queue.new
    script = lambda do |server|
      acts << server.reply(IN_FORCE)["act"]
      server.say("bc86961b?1")
      acts << server.reply(ret: true)["act"]
      server.idle
    end
    client = client_of(script)
    one = client.subscribe(NEWS)
    assert_equal "1", one.next(timeout: 10).text
    two = client.subscribe({ "kind" => "news" })
    assert_equal %w[bc86961b bc86961b], [one.id, two.id]
    one.unsubscribe
    assert_equal %i[unsubscribed subscribed], [one.state, two.state]
    two.unsubscribe
    assert_equal %w[sub unsub], [take(acts), take(acts)]
  end

  def test_a_full_queue_drops_the_oldest_and_tells_it
    gaps = Thread::Queue.new
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.say(*Array.new(9) { |number| "bc86961b?#{number}" }, '{"evt":"expiring","seconds":1}')
      server.idle
    end
    all_came = Thread::Queue.new
    client = client_of(script, queue: 4, on_expiring: ->(_) { all_came << true })
    news = client.subscribe(NEWS, on_gap: ->(gap) { gaps << gap.dropped })
    take(all_came)
    assert_equal %w[5 6 7 8], news.first(4).map(&:text)
    assert_equal 5, news.dropped
    assert_equal 5, take(gaps) + take(gaps)
  end

  def test_a_block_that_raises_is_logged_and_ends_nothing
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.say("bc86961b?1", "bc86961b?2")
      server.idle
    end
    log = StringIO.new
    seen = Thread::Queue.new
    client_of(script, logger: Logger.new(log)).subscribe(NEWS) do |message|
      seen << message.payload
      raise "as the test says"
    end
    assert_equal [1, 2], [take(seen), take(seen)]
    assert_includes log.string, "RuntimeError: as the test says"
  end

  def test_wildcards_tell_the_concrete_pattern
    errors = Thread::Queue.new
    script = lambda do |server|
      server.reply(ret: "bd3769cd")
      server.say("bd3769cd?0", "bd3769cd@c=a:%zz?0", "bd3769cd@z=1&c=channel:S%C3%A3o|kind:news?1")
      server.idle
    end
    news = client_of(script).subscribe({ kind: "news", channel: "*" }, on_error: ->(error) { errors << error })
    message = news.next(timeout: 10)
    assert_equal ["1", { "channel" => "São", "kind" => "news" }], [message.text, message.pattern]
    assert_includes take(errors).message, "malformed label"
    assert_empty errors # only the first one is told
  end

  def test_a_payload_that_is_no_json
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.say("bc86961b?{broken")
      server.idle
    end
    message = client_of(script).subscribe(NEWS).next(timeout: 10)
    assert_equal "{broken", message.text
    assert_raises(Realizehit::BadPayload) { message.payload }
  end

  def test_an_action_that_is_not_answered
    script = lambda do |server|
      server.next_action
      server.reply(IN_FORCE) # the answer to unsub
      server.reply(ret: "f89c383c")
      server.idle
    end
    client = client_of(script, response_timeout: 0.1)
    assert_raises(Realizehit::ResponseTimeout) { client.subscribe(NEWS) }
    assert_equal :subscribed, client.subscribe({ kind: "sport" }).state
  end

  def test_a_refused_subscription
    script = lambda do |server|
      server.reply(err: "not yours", code: "forbidden")
      server.reply(IN_FORCE)
      server.idle
    end
    client = client_of(script)
    error = assert_raises(Realizehit::Forbidden) { client.subscribe({ user: 1 }) }
    assert_equal ["forbidden", "not yours"], [error.code, error.message]
    assert_equal "bc86961b", client.subscribe(NEWS).id
  end

  def test_a_subscription_that_the_server_ends
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.say('{"evt":"unsubscribed","ids":["bc86961b"],"code":"forbidden","reason":"no longer granted"}')
      server.idle
    end
    news = client_of(script).subscribe(NEWS)
    assert_raises(Realizehit::Forbidden) { news.next(timeout: 10) }
    assert_instance_of Realizehit::Forbidden, news.error
  end

  def test_a_wait_has_a_bound_and_ends_with_the_client
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.idle
    end
    client = client_of(script)
    news = client.subscribe(NEWS)
    assert_nil news.next(timeout: 0.01)
    reader = Thread.new { news.to_a }
    client.close
    assert_equal [], Timeout.timeout(10) { reader.value }
    assert_raises(StopIteration) { news.next }
    assert_raises(Realizehit::Closed) { client.subscribe(NEWS) }
    assert_predicate client, :closed?
  end

  def test_a_silent_connection_is_given_up
    lost = Thread::Queue.new
    script = ->(_server) { sleep } # it reads nothing, so it answers no ping
    client_of(script, heartbeat: 0.1, backoff_base: 5, on_disconnected: ->(error) { lost << error })
    error = take(lost)
    assert_nil error.status
    assert_includes error.message, "nothing came for 0.1 s"
  end

  def test_close_from_a_function_of_the_program
    closed = Thread::Queue.new
    script = lambda do |server|
      server.reply(IN_FORCE)
      server.say("bc86961b?1")
      server.idle
    end
    client = client_of(script)
    client.subscribe(NEWS) do
      client.close
      closed << true
    end
    assert take(closed)
    assert client.wait(10)
  end

  def test_close_while_away
    lost = Thread::Queue.new
    client = client_of(->(server) {}, backoff_base: 20, on_disconnected: ->(_) { lost << true })
    take(lost)
    Timeout.timeout(5) { client.close }
    refute_predicate client, :connected?
  end

  def test_close_while_a_handshake_is_not_answered
    silent = Thread::Queue.new
    port = serve(websocket(->(server) {}), lambda do |_socket|
      silent << true
      sleep
    end)
    client = Realizehit::Client.new("ws://127.0.0.1:#{port}/ws", backoff_base: 0.001, open_timeout: 60, logger: quiet)
    take(silent)
    Timeout.timeout(5) { client.close }
    assert_nil client.error
  end

  def test_through_a_proxy
    target = nil
    proxy = lambda do |socket|
      head = +""
      head << socket.readpartial(1) until head.end_with?("\r\n\r\n")
      target = head
      socket.write("HTTP/1.1 200 Connected\r\n\r\n")
      websocket(->(server) { server.reply(IN_FORCE) && server.idle }).call(socket)
    end
    port = serve(proxy)
    with_proxy("http://name:word@127.0.0.1:#{port}") do
      Realizehit::Client.open("ws://realizehit.test:8080/ws") do |client|
        assert_equal "bc86961b", client.subscribe(NEWS).id
      end
    end
    assert target.start_with?("CONNECT realizehit.test:8080 HTTP/1.1\r\n")
    assert_includes target, "Proxy-Authorization: Basic #{['name:word'].pack('m0')}\r\n"
  end

  def test_a_proxy_that_refuses
    port = serve(->(socket) { socket.readpartial(4096) && socket.write("HTTP/1.1 407 No\r\n\r\n") })
    with_proxy("http://127.0.0.1:#{port}") do
      error = assert_raises(Realizehit::Unavailable) { Realizehit::Client.new("ws://realizehit.test:8080/ws") }
      assert_includes error.message, "407"
    end
  end

  def with_proxy(url)
    before = ENV.to_h.slice("http_proxy", "no_proxy")
    ENV["http_proxy"] = url
    ENV.delete("no_proxy")
    yield
  ensure
    %w[http_proxy no_proxy].each { |name| ENV[name] = before[name] }
  end

  def test_addresses_and_options_that_cannot_be_used
    ["", "http://a/", "ws://", "ws://user:word@a/"].each do |url|
      assert_raises(ArgumentError, url) { Realizehit::Client.new(url) }
    end
    [{ queue: 0 }, { heartbeat: "60" }, { on_error: 1 }, { token: 1 }, { unknown: 1 }].each do |options|
      assert_raises(ArgumentError, options.inspect) { Realizehit::Client.new("ws://127.0.0.1:1/", **options) }
    end
  end
end
