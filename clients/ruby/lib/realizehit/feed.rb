# frozen_string_literal: true

require_relative "clock"
require_relative "gap"

module Realizehit
  # What the client knows of a subscription: its state, the messages that wait, and the functions of the program.
  #
  # The methods that change its state need the client's lock; those about messages have a lock of their own.
  #
  # @api private
  class Feed
    AT_ONCE = 16 # messages that the thread of a block takes from the queue
    private_constant :AT_ONCE

    # @return [Topic]
    attr_reader :topic
    # @return [Symbol] of {Subscription#state}
    attr_reader :state

    # @param told [#call] is called with a function of the program or nil, and an error for it
    def initialize(topic, events, queue, handlers, told)
      @topic = topic
      @events = events
      @most = queue
      @handlers = handlers
      @told = told
      @state = :subscribing
      @lock = Mutex.new
      @news = ConditionVariable.new
      @messages = []
      @dropped = @untold = @waiting = 0
      @ended = @discards = false
    end

    # How many messages were dropped.
    def dropped
      @lock.synchronize { @dropped }
    end

    # The error that ended it.
    def error
      @lock.synchronize { @error }
    end

    # Returns the next message, nil if none came in time, or :ended.
    #
    # @raise [Error] the error that ended it
    def take(timeout)
      messages = take_some(timeout, 1)
      messages.is_a?(Array) ? messages.first : messages
    end

    # Returns up to so many messages, nil if none came in time, or :ended.
    #
    # @raise [Error] the error that ended it
    def take_some(timeout, most)
      deadline = timeout && (Clock.now + timeout)
      @lock.synchronize do
        while @messages.empty?
          raise @error if @error
          return :ended if @ended

          left = deadline && (deadline - Clock.now)
          return nil if left && left <= 0

          wait(left)
        end
        tell_dropped if @untold.positive?
        @messages.shift(most)
      end
    end

    # Tells a new state; the last one stays.
    def move(state)
      return if @state == state || @state == :unsubscribed

      @state = state
      tell(:on_state, state)
    end

    # It is in force, perhaps again: tells what may have been missed.
    def in_force(recovered)
      move(:subscribed)
      return unless @away

      seconds = Clock.now - @away
      @away = nil
      recovered ? tell(:on_recovered) : gap(seconds)
    end

    # Whether the connection was lost, and it is not in force again.
    def away?
      !@away.nil?
    end

    # The connection is lost; nothing came since then.
    def interrupted(since)
      return unless @state == :subscribed

      @away ||= since
      move(:subscribing)
    end

    # Tells that messages may be missing.
    def gap(seconds)
      tell(:on_gap, Gap.new(seconds:, dropped: 0).freeze)
    end

    # Adds a message; if the queue is full, the oldest one is dropped.
    def put(message)
      @lock.synchronize do
        return if @ended

        if @messages.size == @most
          @messages.shift
          count_dropped
        end
        @messages.push(message)
        @news.signal if @waiting.positive?
      end
    end

    # Ends it, and tells why.
    def finish(error)
      stop(error)
      move(:unsubscribed)
      @told.call(@handlers[:on_error], error) if error
    end

    # Tells an error that does not end it.
    def complain(error)
      @told.call(@handlers[:on_error], error)
    end

    # Ends the messages. What waits can still be read if an error ended it.
    def stop(error)
      @lock.synchronize do
        return if @ended

        @ended = true
        @error = error
        @discards = error.nil?
        @messages.clear if @discards
        @news.broadcast
      end
    end

    # Calls the program's block with each message, on a thread of its own.
    def call_back(function)
      @thread = Thread.new do
        while (messages = quiet_take) != :ended
          messages.each { |message| @events.guard { function.call(message) } unless @discards }
        end
      end
      @thread.name = "realizehit #{@topic.text}"
    end

    # Waits for the thread of the block.
    def join
      @thread&.join
    end

    # Whether its thread is the one that asks.
    def current?
      @thread == Thread.current
    end

    private

    def wait(seconds)
      @waiting += 1
      @news.wait(@lock, seconds)
    ensure
      @waiting -= 1
    end

    # Returns some messages at once: a thread that takes each one alone waits as often for the lock.
    def quiet_take
      take_some(nil, AT_ONCE)
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
  private_constant :Feed
end
