# frozen_string_literal: true

require "json"
require "websocket/driver"

require_relative "clock"
require_relative "deadline"
require_relative "dialing"
require_relative "errors"

module Realizehit
  # One WebSocket. One thread reads and writes, the one that calls {#run}; others put texts into its queue.
  #
  # @api private
  class Connection
    READ_SIZE = 64 << 10
    MAX_HANDSHAKE = 64 << 10
    CLOSE_TIMEOUT = 2 # seconds for the server's part of the closing handshake
    FLUSH_TIMEOUT = 1 # seconds for the last bytes of a connection that ends
    MAX_DELAY = 300 # seconds that a server can keep a client away
    DRAIN = 4001
    CODES = { 4501 => "not-authenticated", 4502 => "forbidden", 4503 => "too-many-connections" }.freeze
    private_constant :READ_SIZE, :MAX_HANDSHAKE, :CLOSE_TIMEOUT, :FLUSH_TIMEOUT, :MAX_DELAY, :DRAIN, :CODES

    # @return [String] for the driver, which asks for it
    attr_reader :url
    # @return [Float] when anything last came
    attr_reader :heard

    def initialize(uri, options)
      @uri = uri
      @url = uri.to_s
      @options = options
      @driver = WebSocket::Driver.client(self, max_length: options.max_message)
      @out = String.new
      @outbox = Thread::Queue.new
      @wake_reader, @wake_writer = IO.pipe
      @timers = []
      @early = []
      @deliver = ->(text) { @early << text }
      listen
    end

    # Queues a text message. Any thread may call it.
    def send_text(text)
      @outbox << text
      wake
    end

    # Asks for the end of the connection. Any thread may call it.
    def close
      @closing = true
      wake
    end

    # Calls a block later, on the thread of {#run}. Only that thread may call it.
    def after(delay, &block)
      @timers << [Clock.now + delay, block]
    end

    # Called by the driver with bytes for the server.
    def write(bytes)
      @out << bytes
    end

    # Reads and writes until the connection ends.
    #
    # @param lock [Monitor] is held while messages are delivered
    # @yieldparam text [String] each text message
    # @return [Disconnected] why it ended
    def run(lock, &deliver)
      @deliver = deliver
      lock.synchronize { @early.each(&deliver) }
      turn(lock) until @ended
      @ended
    rescue *Dialing::FAILURES => e
      lost(e.message)
    ensure
      finish
    end

    # Connects, and makes the opening handshake.
    #
    # @return [self]
    # @raise [Error]
    def open
      token = @options.current_token
      deadline = Deadline.new(@options.open_timeout, @wake_reader)
      connect(deadline)
      shake_hands(token, deadline)
      @heard = Clock.now
      self
    rescue *Dialing::FAILURES => e
      raise Unavailable.new("the server cannot be reached: #{e.message}", code: "unavailable")
    ensure
      finish if @heard.nil?
    end

    private

    def listen
      @driver.on(:open) { @opened = true }
      @driver.on(:message) { |event| @deliver.call(event.data) if event.data.is_a?(String) } # bytes: a later version's
      @driver.on(:error) { |error| @broken = error.message }
      @driver.on(:close) { |event| @ended ||= @broken ? lost(@broken) : closed(event.code, event.reason.to_s) }
    end

    def connect(deadline)
      proxy = Dialing.proxy_of(@uri)
      @socket = @io = Dialing.tcp(proxy || @uri, deadline)
      tunnel(proxy, deadline) if proxy
      @io = Dialing.tls(@socket, @uri, @options.ca_file, deadline) if @uri.scheme == "wss"
    end

    def tunnel(proxy, deadline)
      tunnel = @driver.proxy(proxy.to_s)
      tunnel.on(:connect) { return }
      tunnel.on(:error) { raise IOError, "the proxy refused to connect with the status #{tunnel.status}" }
      tunnel.start
      loop { tunnel.parse(receive(deadline)) }
    end

    def shake_hands(token, deadline)
      @options.headers.each { |name, value| @driver.set_header(name.to_s, value.to_s) }
      @driver.set_header("Authorization", "Bearer #{token}") if token
      @driver.start
      answer = String.new
      until @opened
        chunk = receive(deadline)
        answer << chunk if answer.bytesize < MAX_HANDSHAKE
        @driver.parse(chunk)
        refused(answer, deadline) if @broken
      end
    end

    # Writes what waits, and returns what comes.
    def receive(deadline)
      flush(deadline)
      loop do
        chunk = @io.read_nonblock(READ_SIZE, exception: false)
        raise EOFError, "the connection was closed during the handshake" if chunk.nil?
        return chunk if chunk.is_a?(String)

        deadline.wait(@socket, chunk)
      end
    end

    def flush(deadline)
      deadline.wait(@socket, :wait_writable) until write_some
    end

    # Raises what a server said that refused the handshake.
    def refused(answer, deadline)
      status = @driver.status
      raise IOError, @broken unless status && (400..499).cover?(status)

      raise Refusal.of_answer(status, body_of(answer, deadline), @driver.headers["Retry-After"])
    end

    def body_of(answer, deadline)
      length = @driver.headers["Content-Length"].to_i.clamp(0, MAX_HANDSHAKE)
      head = answer.index("\r\n\r\n").to_i + 4
      answer << receive(deadline) while answer.bytesize < head + length
      answer.byteslice(head, length).force_encoding(Encoding::UTF_8)
    rescue *Dialing::FAILURES
      "" # the status says enough
    end

    # One turn: waits for something to do, and does it.
    def turn(lock)
      writers = @out.empty? ? nil : [@socket]
      ready = IO.select([@socket, @wake_reader], writers, nil, @more ? 0 : patience)
      take_outbox if ready&.first&.include?(@wake_reader)
      read_some(lock)
      run_timers(lock)
      check_time
      write_some
    end

    def wake
      @wake_writer.write_nonblock("\0", exception: false)
    rescue IOError, SystemCallError
      nil # the connection has ended
    end

    def take_outbox
      @wake_reader.read_nonblock(READ_SIZE, exception: false)
      @driver.text(@outbox.pop) until @outbox.empty?
      return unless @closing && @close_by.nil?

      @close_by = Clock.now + CLOSE_TIMEOUT
      @driver.close
    end

    def read_some(lock)
      chunk = @io.read_nonblock(READ_SIZE, exception: false)
      @more = chunk.is_a?(String) # TLS may hold more than the socket shows
      @ended ||= lost("the server closed it without a close frame") if chunk.nil?
      return unless @more

      @heard = Clock.now
      @pinged = false
      lock.synchronize { @driver.parse(chunk) }
    end

    # Returns whether everything is written.
    def write_some
      until @out.empty?
        count = @io.write_nonblock(@out, exception: false)
        return false unless count.is_a?(Integer)

        @out = @out.byteslice(count..)
      end
      true
    end

    def run_timers(lock)
      return if @timers.empty?

      now = Clock.now
      due, @timers = @timers.partition { |time, _| time <= now }
      due.each { |_, block| lock.synchronize(&block) }
    end

    # Gives the connection up if nothing comes, and asks for a sign of life before that.
    def check_time
      now = Clock.now
      silence = now - @heard
      if @close_by && now >= @close_by
        @ended ||= lost("the server did not answer the close frame")
      elsif silence >= @options.heartbeat
        @ended ||= lost("nothing came for #{@options.heartbeat} s")
      elsif silence >= @options.heartbeat / 2.0 && !@pinged
        @pinged = true
        @driver.ping(String.new)
      end
    end

    # How long nothing has to be done, in seconds.
    def patience
      heartbeat = @options.heartbeat
      times = @timers.map(&:first) << (@heard + (@pinged ? heartbeat : heartbeat / 2.0))
      times << @close_by if @close_by
      [times.min - Clock.now, 0].max
    end

    def finish
      flush(Deadline.new(FLUSH_TIMEOUT)) if @io && @opened
    rescue *Dialing::FAILURES
      nil # it is gone already
    ensure
      [@io, @socket, @wake_reader, @wake_writer].compact.uniq.each { |each| close_quietly(each) }
    end

    def close_quietly(socket)
      socket.close
    rescue *Dialing::FAILURES
      nil
    end

    def lost(text)
      Disconnected.new("the connection is lost: #{text}")
    end

    def closed(code, reason)
      text = "the server closed the connection with #{code}: #{reason}"
      Disconnected.new(text, code: CODES.fetch(code, ""), status: code, retry_after: drain_delay(code, reason))
    end

    # After how many seconds a server that goes away wants the client back; nil if it does not say.
    def drain_delay(code, reason)
      delay = reason[/\Adelay=(\d{1,9})\z/, 1] if code == DRAIN
      delay && [delay.to_i / 1000.0, MAX_DELAY].min
    end
  end
  private_constant :Connection
end
