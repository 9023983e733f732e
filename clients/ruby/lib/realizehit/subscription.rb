# frozen_string_literal: true

require_relative "clock"
require_relative "message"

module Realizehit
  # Messages may be missing.
  #
  # seconds:: how long the connection, or the server's broker, was away; 0 if messages were dropped
  # dropped:: how many messages the full queue dropped
  Gap = Struct.new(:seconds, :dropped, keyword_init: true)

  # What a client subscribed to; {Client#subscribe} makes it.
  #
  # Read it with {#each} or {#next}, or give {Client#subscribe} a block. Several threads may read: each message goes to
  # one of them.
  class Subscription
    include Enumerable

    # @return [Pattern]
    attr_reader :pattern
    # @return [Symbol] :subscribing (also while the connection is away), :subscribed, :unsubscribing or :unsubscribed
    attr_reader :state

    # @api private
    def initialize(client, topic, events, queue, handlers)
      @client = client
      @topic = topic
      @pattern = topic.pattern
      @events = events
      @most = queue
      @handlers = handlers
      @state = :subscribing
      @lock = Mutex.new
      @news = ConditionVariable.new
      @messages = []
      @dropped = @untold = 0
      @ended = false
    end

    # @return [String, nil] the pattern's label on the wire; nil if the subscription is not in force
    def id
      @topic.id
    end

    # @return [Integer] how many messages were lost because the queue was full
    def dropped
      @lock.synchronize { @dropped }
    end

    # @return [Error, nil] the error that ended the subscription
    def error
      @lock.synchronize { @error }
    end

    # Returns the next message, and waits for it.
    #
    # @param timeout [Numeric, nil] seconds; nil waits as long as it takes
    # @return [Message, nil] nil if none came in time
    # @raise [StopIteration] once the subscription has ended
    # @raise [Error] the error that ended it
    def next(timeout: nil)
      message = take(timeout)
      raise StopIteration, "the subscription has ended" if message == :ended

      message
    end

    # Yields the messages until the subscription ends. Without a block it returns an Enumerator.
    #
    # @raise [Error] the error that ended it
    def each
      return enum_for(:each) unless block_given?

      while (message = take(nil)) != :ended
        yield message
      end
      self
    end

    # Ends the subscription, and waits until the server has confirmed it. What waits in the queue is thrown away.
    #
    # @raise [ResponseTimeout] if there was no confirmation in time; the subscription has ended all the same
    def unsubscribe
      @client.unsubscribe(self)
    end

    def inspect
      "#<#{self.class} #{@pattern} #{@state}>"
    end

    # @!group For the client, which calls these with its lock held

    # @api private
    attr_reader :topic

    # @api private
    def move(state)
      return if @state == state || @state == :unsubscribed

      @state = state
      tell(:on_state, state)
    end

    # @api private
    def in_force(recovered)
      move(:subscribed)
      return unless @away

      seconds = Clock.now - @away
      @away = nil
      recovered ? tell(:on_recovered) : gap(seconds)
    end

    # @api private
    def away?
      !@away.nil?
    end

    # @api private
    def interrupted(since)
      return unless @state == :subscribed

      @away ||= since
      move(:subscribing)
    end

    # @api private
    def gap(seconds)
      tell(:on_gap, Gap.new(seconds:, dropped: 0).freeze)
    end

    # @api private
    def put(message)
      @lock.synchronize do
        return if @ended

        if @messages.size == @most
          @messages.shift
          count_dropped
        end
        @messages.push(message)
        @news.signal
      end
    end

    # @api private
    def finish(error)
      stop(error)
      move(:unsubscribed)
      @client.told(@handlers[:on_error], error) if error
    end

    # @api private
    def complain(error)
      @client.told(@handlers[:on_error], error)
    end

    # @api private
    def stop(error)
      @lock.synchronize do
        return if @ended

        @ended = true
        @error = error
        @messages.clear if error.nil?
        @news.broadcast
      end
    end

    # Calls the program's block with each message, on a thread of its own.
    #
    # @api private
    def call_back(function)
      @thread = Thread.new do
        while (message = quiet_take) != :ended
          @events.guard(function, message)
        end
      end
      @thread.name = "realizehit #{@pattern}"
    end

    # @api private
    def join
      @thread&.join unless @thread == Thread.current
    end

    # @!endgroup

    private

    def take(timeout)
      deadline = timeout && (Clock.now + timeout)
      @lock.synchronize do
        while @messages.empty?
          raise @error if @error
          return :ended if @ended

          left = deadline && (deadline - Clock.now)
          return nil if left && left <= 0

          @news.wait(@lock, left)
        end
        tell_dropped if @untold.positive?
        @messages.shift
      end
    end

    def quiet_take
      take(nil)
    rescue Error
      :ended # it was told to on_error
    end

    def count_dropped
      @dropped += 1
      @untold += 1
      tell_dropped if @dropped == @untold || @untold == @most # the first one at once, then not each
    end

    def tell_dropped
      tell(:on_gap, Gap.new(seconds: 0, dropped: @untold).freeze)
      @untold = 0
    end

    def tell(name, *arguments)
      @events.add(@handlers[name], *arguments)
    end
  end
end
