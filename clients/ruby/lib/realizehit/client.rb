# frozen_string_literal: true

require "json"
require "logger"
require "monitor"

require_relative "backoff"
require_relative "clock"
require_relative "connection"
require_relative "dialing"
require_relative "errors"
require_relative "events"
require_relative "incoming"
require_relative "options"
require_relative "pattern"
require_relative "renewal"
require_relative "subscription"
require_relative "topic"

module Realizehit
  # Subscribes over a WebSocket and stays subscribed. Several threads may use one.
  #
  # The client connects again by itself after a lost connection. It ends when the server refuses it: by a close code
  # from 4500 to 4999, or by the answer 401 or 403 to the handshake.
  class Client
    STABLE_AFTER = 10 # seconds; a connection that is lost sooner does not reset the back-off
    FINAL_CODES = (4500..4999)
    NOT_AUTHENTICATED = 4501
    FINAL_STATUSES = [401, 403].freeze
    TEMPORARY = %w[unavailable rate-limited].freeze
    private_constant :STABLE_AFTER, :FINAL_CODES, :NOT_AUTHENTICATED, :FINAL_STATUSES, :TEMPORARY

    # Connects and, with a block, yields the client and closes it.
    def self.open(...)
      client = new(...)
      return client unless block_given?

      begin
        yield client
      ensure
        client.close
      end
    end

    # Connects. A first attempt that fails is not repeated, so that a wrong address shows.
    #
    # Functions (on_…) are called one after another on a thread of the client, in the order of what happened.
    #
    # @param url [String] the address of the WebSocket, "ws://127.0.0.1:8080/ws"
    # @param options [Hash]
    # @option options [String, #call] :token who the client is: a token, or a function that returns one. The function is
    #   called for each connection and before a token ends
    # @option options [Hash] :headers further headers of the handshake
    # @option options [Numeric] :open_timeout (10) seconds for connecting and the handshake
    # @option options [Numeric] :response_timeout (10) seconds for the answer to an action
    # @option options [Numeric] :heartbeat (60) seconds without anything after which the connection is given up
    # @option options [Numeric] :backoff_base (0.25) first bound of the delay before connecting again, in seconds
    # @option options [Numeric] :backoff_cap (20) last bound of it
    # @option options [Integer] :queue (1024) messages that may wait in each subscription
    # @option options [Integer] :max_message (16 MiB) bytes of the largest message that is accepted
    # @option options [String] :ca_file a file of certificates to trust instead of the system's
    # @option options [Logger] :logger is told what no function is there for; by default it writes to standard error
    # @option options [#call] :on_connected is called without arguments
    # @option options [#call] :on_disconnected is called with a {Disconnected}; its status is the close code
    # @option options [#call] :on_expiring is called with the seconds after which the token ends
    # @option options [#call] :on_note is called with what an operator sent, any JSON value
    # @option options [#call] :on_error is called with an {Error}: connecting again or renewing the token failed, and is
    #   tried again
    # @option options [#call] :on_ended is called with the {Error} for which the client has ended, not after {#close}
    # @raise [Error] if the client cannot connect
    # @raise [ArgumentError] if the address or an option cannot be used
    def initialize(url, **options)
      @uri = Dialing.checked(url)
      @options = Options.from(options)
      @logger = @options.logger || Logger.new($stderr, level: Logger::WARN)
      @lock = Monitor.new
      @changed = @lock.new_cond
      @pending = {}
      @topics = {}
      @by_id = {}
      @number = 0
      @closing = false
      @incoming = Incoming.new(@pending, @by_id, end_topic: method(:end_topic), expiring: method(:expiring),
                                                 note: ->(note) { @events.add(@options.on_note, note) })
      @renewal = Renewal.new(@options, method(:authenticate), method(:wait_on), method(:told))
      @connection = Connection.new(@uri, @options).open
      @events = Events.new(@logger)
      @thread = Thread.new(@connection) { |connection| run(connection) }
      @thread.name = "realizehit client"
    end

    # @return [Boolean] whether a connection is there
    def connected?
      @lock.synchronize { !@connection.nil? }
    end

    # @return [Boolean] whether the client has ended
    def closed?
      @lock.synchronize { @closing }
    end

    # @return [Error, nil] the error for which the client has ended
    def error
      @lock.synchronize { @error }
    end

    # Waits until the client has ended.
    #
    # @param timeout [Numeric, nil] seconds; nil waits as long as it takes
    # @return [Boolean] whether it has ended
    def wait(timeout = nil)
      !@thread.join(timeout).nil?
    end

    # Ends all subscriptions and the connection. When it returns, no function of the program runs any more, unless
    # one of them called it.
    def close
      workers = @lock.synchronize do
        @closing = true
        @changed.broadcast
        [@connection, @dialing].compact.each(&:close)
        [*@topics.each_value.flat_map(&:members), @renewal, @events]
      end
      @thread.join unless @thread == Thread.current
      workers.each(&:join) unless workers.any?(&:current?) # a function of the program does not wait for another one
      nil
    end

    # Subscribes to a pattern, and waits until that is in force: nothing that is published from then on is missed.
    #
    # Several subscriptions to one pattern each get every message; on the wire there is one. With a block, each message
    # is given to it on a thread of the subscription; a block that raises is logged, and the next message comes.
    #
    #   client.subscribe({ kind: "news" }) { |message| puts message.text }
    #
    # @param pattern [Hash, Pattern]
    # @param since [String, nil] a position: what came after it is sent first, or a gap is told
    # @param last [Integer, nil] how many of the last messages are sent first
    # @param offsets [Boolean] whether to ask for positions, by which the subscription resumes after a lost connection
    # @param every [Integer, nil] milliseconds in which the server sends at most one message, always the newest.
    #   Subscriptions of a client to one pattern have the same; it excludes since, last and offsets
    # @param queue [Integer, nil] how many messages may wait; when it is full the oldest are dropped
    # @param on_state [#call] is called with the new {Subscription#state}
    # @param on_gap [#call] is called with a {Gap}
    # @param on_recovered [#call] the subscription is in force again, and nothing was missed
    # @param on_error [#call] is called with the {Error} that ended the subscription, or with what was left out
    # @return [Subscription]
    # @raise [Error] {BadPattern}, {Forbidden}, {ResponseTimeout} and others
    def subscribe(pattern, since: nil, last: nil, offsets: false, every: nil, queue: nil, on_state: nil, on_gap: nil,
                  on_recovered: nil, on_error: nil, &block)
      pattern = Pattern.of(pattern)
      handlers = { on_state:, on_gap:, on_recovered:, on_error: }
      feed = @lock.synchronize do
        topic = topic_for(pattern, since:, last:, offsets:, every:)
        join_topic(topic, Feed.new(topic, @events, queue || @options.queue, handlers, method(:told)))
      end
      feed.call_back(block) if block
      confirm(feed)
      Subscription.new(feed, method(:unsubscribe))
    end

    def inspect
      "#<#{self.class} #{@uri}>"
    end

    private

    # Sends a fresh token on a connection, and waits for the answer.
    def authenticate(connection, token)
      answer = nil
      @lock.synchronize do
        return unless @connection.equal?(connection)

        act({ act: "auth", token: }) do |reply|
          answer = reply || {}
          @changed.broadcast
        end
        raise ResponseTimeout, "no answer to auth in time" unless wait_for(@options.response_timeout) { answer }
      end
      raise refusal(answer) if answer["err"]
    end

    # Waits, but not longer than a connection is there. Returns whether it is still there.
    def wait_on(connection, seconds)
      @lock.synchronize { !wait_for(seconds) { !@connection.equal?(connection) || @closing } }
    end

    # Gives an error to a function of the program, or to the log if there is none.
    def told(function, error)
      return @events.add(function, error) if function

      @logger.warn("realizehit: #{error.message}")
    end

    # Ends a feed, and waits for the confirmation.
    def unsubscribe(feed)
      @lock.synchronize do
        return if %i[unsubscribing unsubscribed].include?(feed.state)

        feed.move(:unsubscribing)
        feed.stop(nil)
        confirmed = false
        sent = leave(feed) do
          confirmed = true
          @changed.broadcast
        end
        begin
          in_time = !sent || wait_for(@options.response_timeout) { confirmed }
        ensure
          feed.finish(nil)
        end
        raise ResponseTimeout, "no answer to unsub in time" unless in_time
      end
    end

    # Waits with the lock held until the block returns true.
    def wait_for(seconds)
      deadline = Clock.now + seconds
      until (result = yield)
        left = deadline - Clock.now
        return false if left <= 0

        @changed.wait(left)
      end
      result
    end

    def new_backoff
      Backoff.new(@options.backoff_base, @options.backoff_cap)
    end

    def topic_for(pattern, since:, last:, offsets:, every:)
      raise @error if @error
      raise Closed, "the client is closed" if @closing

      topic = @topics[pattern.text]
      return @topics[pattern.text] = new_topic(pattern, since:, last:, offsets:, every:) if topic.nil?
      return topic unless since || last || every != topic.every

      raise Rejected.new("this client has a subscription to #{pattern}; since, last and every need the first one",
                         code: "bad-request")
    end

    def new_topic(pattern, **wanted)
      Topic.new(pattern, @lock.new_cond, new_backoff, **wanted)
    end

    def join_topic(topic, feed)
      topic.members << feed
      ask(topic) if topic.members.size == 1 && topic.request.nil?
      feed.move(:subscribed) if topic.id
      feed
    end

    def confirm(feed)
      topic = feed.topic
      confirmed = false
      @lock.synchronize do
        deadline = Clock.now + @options.response_timeout
        until topic.settled?
          left = deadline - Clock.now
          raise ResponseTimeout, "no answer to sub in time" if left <= 0

          topic.wait(left)
        end
        raise topic.error if topic.error

        confirmed = true
      end
    ensure
      abandon(feed) unless confirmed
    end

    def abandon(feed)
      @lock.synchronize do
        leave(feed)
        feed.finish(nil)
      end
    end

    # Takes a subscription away. Returns whether the block will be called with the server's answer.
    def leave(feed, &)
      topic = feed.topic
      topic.members.delete(feed)
      return false if !topic.members.empty? || !@topics[topic.text].equal?(topic)

      forget(topic)
      @pending.delete(topic.request)
      return false if @connection.nil?

      act({ act: "unsub", pat: topic.pattern }, &)
      true
    end

    def forget(topic)
      @topics.delete(topic.text) if @topics[topic.text].equal?(topic)
      @by_id.delete(topic.id) if @by_id[topic.id].equal?(topic)
    end

    # Sends an action; the block is called with the answer, or with nil if the connection is lost.
    def act(action, &answered)
      id = (@number += 1).to_s
      @pending[id] = answered if answered
      @connection.send_text(JSON.generate({ id:, **action }))
      id
    end

    # Sends the action sub of a topic, if there is a connection; otherwise the next one begins with it.
    def ask(topic)
      return if @connection.nil? || !@topics[topic.text].equal?(topic)

      topic.request = act(topic.action) { |reply| answered(topic, reply) }
    end

    def answered(topic, reply)
      return if reply.nil? || !@topics[topic.text].equal?(topic) # asked for again, or not wanted any more
      return refused(topic, reply) if reply["err"]

      id = reply["ret"].is_a?(String) && !reply["ret"].empty? ? reply["ret"] : topic.pattern.id
      other = @by_id[id]
      return collided(topic, other, id) if other && !other.equal?(topic)

      @by_id[id] = topic
      topic.in_force(id, reply)
    end

    def refused(topic, reply)
      return end_topic(topic, refusal(reply)) unless topic.known? && TEMPORARY.include?(reply["code"])

      connection = @connection
      connection.after(topic.delays.next) { ask(topic) if @connection.equal?(connection) }
    end

    def collided(topic, other, id)
      text = "the pattern #{topic.text} has the id #{id}, as #{other.text} has; use another client for it"
      end_topic(topic, Rejected.new(text, code: "id-collision"))
    end

    def refusal(reply)
      Refusal.error(reply["err"].to_s, code: reply["code"].is_a?(String) ? reply["code"] : "")
    end

    def end_topic(topic, error)
      forget(topic)
      topic.finish(error)
    end

    # The methods below run on the thread that serves the connections.

    def run(connection)
      delays = new_backoff
      while connection
        began = Clock.now
        attach(connection)
        lost = connection.run(@lock) { |text| @incoming.take(text) }
        delays.reset if Clock.now - began >= STABLE_AFTER
        return finish(nil) if detach(connection, lost)
        return finish(lost) if final?(lost)

        connection = come_back(lost.retry_after || delays.next, delays)
      end
    rescue StandardError => e # a defect of the client; the program has to know that nothing comes any more
      finish(Error.new("the client has failed: #{e.class}: #{e.message}"))
    end

    def final?(lost)
      return false unless FINAL_CODES.cover?(lost.status)

      lost.status != NOT_AUTHENTICATED || !@options.renewable?
    end

    # Connects again. Returns nil if the client has ended meanwhile.
    def come_back(delay, delays)
      closing = @lock.synchronize { wait_for(delay) { @closing } }
      return finish(nil) if closing

      dial
    rescue Error => e
      return finish(e) if FINAL_STATUSES.include?(e.status)

      told(@options.on_error, e) unless closed?
      delay = [delays.next, [e.retry_after || 0, @options.backoff_cap].min].max
      retry
    end

    def dial
      connection = Connection.new(@uri, @options)
      @lock.synchronize do
        @dialing = connection
        connection.close if @closing
      end
      connection.open
    end

    def attach(connection)
      @lock.synchronize do
        connection.close if @closing
        @events.add(@options.on_connected)
        next if @connection.equal?(connection) # the first one: what was subscribed to meanwhile has been asked for

        @connection = connection
        @topics.each_value { |topic| ask(topic) }
      end
    end

    # Returns whether the client is being closed.
    def detach(connection, lost)
      @lock.synchronize do
        @connection = nil
        @by_id.clear
        pending = @pending.values
        @pending.clear
        pending.each { |answered| answered.call(nil) }
        @topics.each_value { |topic| topic.interrupted(connection.heard) } unless @closing
        @events.add(@options.on_disconnected, lost)
        @changed.broadcast
        @closing
      end
    end

    def finish(error)
      @lock.synchronize do
        @connection = nil
        @error = error
        @closing = true
        end_topic(@topics.each_value.first, error) until @topics.empty?
        told(@options.on_ended, error) if error
        @changed.broadcast
      end
      @events.close
      nil
    end

    def expiring(seconds)
      @events.add(@options.on_expiring, seconds)
      @renewal.begin(@connection, seconds) if @options.renewable? && @connection
    end
  end
end
